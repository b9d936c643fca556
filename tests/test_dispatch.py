"""The dispatchers: our kernel only where a measured verdict says so, else the vendor library; NumPy on the host."""

from __future__ import annotations

import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune import dispatch
from gpu_tune.cuda import driver
from gpu_tune.errors import InvalidInput, Unsupported
from gpu_tune.kernel import arrays
from gpu_tune.measure import vendor
from gpu_tune.reference import compare, example_inputs, example_scalars, reference
from gpu_tune.store.store import Store
from gpu_tune.workload import Conv2d, Matmul, tune_command
from tests.helpers.on_gpu import OnGpu
from tests.helpers.winners import toy_winner_for

WORKLOADS = [
    Matmul(20, 18, 16, dtype="float32", epilogue="bias+gelu"),
    Matmul(20, 18, 16, dtype="float32", layout="tt", alpha="any", beta="any", epilogue="row_bias+silu"),
    Matmul(5, 8, 16, batch=3, dtype="float32", layout="nt", epilogue="residual+gelu_tanh"),
    Matmul(5, 8, 16, dtype="float32", layout="tn", beta="1", epilogue="scale+clamp(-1,2)"),
]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(driver, "library", lambda: None)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.key)
def test_numpy_arrays_are_computed_by_numpy(no_gpu, workload):
    given, scalars = example_inputs(workload), example_scalars(workload)
    c = given.pop("c", None)
    more = {"beta": 1.0} if workload.beta == "1" else scalars
    out = gt.matmul(
        given.pop("a"), given.pop("b"), c, layout=workload.layout, epilogue=workload.epilogue, **more, **given
    )
    inputs = example_inputs(workload)
    assert compare(out, workload, inputs, scalars).ok
    again = np.zeros_like(out)
    rest = {n: a for n, a in inputs.items() if n not in "abc"}
    assert (
        gt.matmul(
            inputs["a"], inputs["b"], c, layout=workload.layout, epilogue=workload.epilogue, out=again, **more, **rest
        )
        is again
    )
    np.testing.assert_array_equal(out, again)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_conv2d_of_numpy_arrays(no_gpu, layout):
    workload = Conv2d(
        2,
        4,
        7,
        6,
        6,
        3,
        2,
        stride=(2, 1),
        padding=(1, 0, 1, 1),
        groups=2,
        layout=layout,
        dtype="float32",
        epilogue="bias+relu",
    )
    given = example_inputs(workload)
    out = gt.conv2d(
        given["x"],
        given["w"],
        stride=(2, 1),
        padding=(1, 0, 1, 1),
        groups=2,
        layout=layout,
        epilogue="bias+relu",
        bias=given["bias"],
    )
    np.testing.assert_allclose(out, reference(workload, given), rtol=1e-5, atol=1e-5)


def test_bad_calls_are_refused(no_gpu):
    a, b = np.zeros((4, 8), np.float32), np.zeros((8, 4), np.float32)
    for call, said in (
        (lambda: gt.matmul(a, a), "b.shape: .* is not"),
        (lambda: gt.matmul(a, b, layout="xx"), "matmul layout: 'xx' is unknown"),
        (lambda: gt.matmul(a, b, bias=a), "bias: is no argument"),
        (lambda: gt.matmul(a, b, epilogue="bias", bias=a), "bias.shape"),
        (lambda: gt.matmul(a[0], b), "is not a matrix"),
        (lambda: gt.matmul(a.astype(np.float64), b), "float64"),
        (lambda: gt.matmul("a", b), "is not an array"),
        (lambda: gt.conv2d(a, b), "are not four-dimensional"),
    ):
        with pytest.raises(InvalidInput, match=said):
            call()


# --- the vendor's side, with NumPy standing in for CuPy (they share what is used here) ---


@pytest.mark.parametrize("workload", WORKLOADS[1:], ids=lambda w: w.key)
def test_the_vendor_fallback_computes_the_epilogue(monkeypatch, workload):
    monkeypatch.setitem(sys.modules, "cupy", np)
    given, scalars = example_inputs(workload), example_scalars(workload)
    assert vendor.can(workload, "cupy")
    assert compare(vendor.run(workload, "cupy", given, scalars, None), workload, given, scalars).ok


def test_what_the_vendor_cannot_do_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", np)
    given = example_inputs(Matmul(4, 4, 4, dtype="int8"))
    assert not vendor.can(Matmul(4, 4, 4, dtype="int8"), "cupy") and not vendor.can(Conv2d(1, 4, 4, 4, 4, 1, 1), "cupy")
    with pytest.raises(Unsupported, match="use gpu_tune\\.load"):
        vendor.run(Matmul(4, 4, 4, dtype="int8"), "cupy", given, {}, None)


# --- who serves a call, on the virtual GPU ---


@pytest.mark.parametrize(
    "verdict, ours", [("faster", True), ("slower", False), ("tied", False), ("unknown", False), (None, False)]
)
def test_our_kernel_serves_only_where_it_was_measured_to_be_faster(fake_cuda, home, monkeypatch, verdict, ours):
    driver.use_context(0)
    dispatch.forget()
    workload = Matmul(16, 24, 32, dtype="float32")
    if verdict is not None:
        Store().publish(replace(toy_winner_for(workload), source="measured", verdict={"ours": verdict}))
    asked = []
    monkeypatch.setattr(vendor, "can", lambda w, library: True)
    monkeypatch.setattr(vendor, "run", lambda w, *rest: asked.append(w) or "vendor's")
    given = example_inputs(workload)
    a, b, out = OnGpu(given["a"]), OnGpu(given["b"]), OnGpu(np.zeros((16, 24), np.float32))
    result = gt.matmul(a, b, out=out)
    assert (result is out) == ours and (asked == [workload]) != ours
    if ours:
        np.testing.assert_allclose(out.get(), reference(workload, given), rtol=1e-5, atol=1e-5)
    Store().publish(replace(toy_winner_for(workload), source="measured", verdict={"ours": "faster"}))
    dispatch.forget()  # as a tuning in this process does
    assert gt.matmul(a, b, out=out) is out
    misaligned = OnGpu(given["a"], offset=4)
    assert gt.matmul(misaligned, b, out=out) == "vendor's"
    dispatch.forget()


# --- small things ---


def test_dtypes_of_other_libraries_are_known_by_their_names():
    for dtype, name in ((ml_dtypes.bfloat16, "bfloat16"), (ml_dtypes.float8_e4m3fn, "float8_e4m3"), (np.int8, "int8")):
        assert arrays.view("x", np.zeros((2, 3), dtype)).dtype == name


def test_dlpack_is_read_without_a_library():
    class Plain:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    array = np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2]
    seen, direct = arrays.view("x", Plain(array)), arrays.view("x", array)
    assert (seen.pointer, seen.shape, seen.strides, seen.dtype) == (direct.pointer, (4, 3), (6, 2), "float32")
    assert seen.library == "dlpack" and seen.place == arrays.HOST


def test_the_command_that_tunes_a_workload_says_all_that_differs_from_the_defaults():
    workload = Matmul(
        20, 18, 16, dtype="float32", layout="nt", lda=32, math=("tf32",), epilogue="clamp(0,6)", deterministic=False
    )
    assert tune_command(workload, "nvidia-a100") == (
        "gpu-tune tune matmul --m 20 --n 18 --k 16 --dtype float32 --layout nt --lda 32 --epilogue 'clamp(0,6)' "
        "--math tf32 --no-deterministic --device nvidia-a100"
    )
    conv = Conv2d(1, 8, 9, 9, 8, 3, 3, padding=(0, 1, 2, 1), stride=2)
    assert tune_command(conv).endswith("--stride 2x2 --padding 0x1x2x1 --layout nhwc --dtype float16")


A, B = np.ones((8, 4), np.float32), np.ones((4, 6), np.float32)
SQUARE = np.ones((4, 4), np.float32)
FROZEN = np.broadcast_to(np.float32(0), (8, 6)).copy()
FROZEN.flags.writeable = False


MASK = np.ones((8, 16), bool)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: gt.matmul(A, B, epilogue="bias"), "bias: is missing: .* pass bias="),
        (lambda: gt.matmul(A, B, alpha="x"), "alpha: 'x' is not a number"),
        (lambda: gt.matmul(A, B, alpha=np.ones(3)), "alpha: .* is not a number"),
        (lambda: gt.matmul(A, B, beta=True), "beta: True is not a number"),
        (lambda: gt.matmul(A, B, alpha=10**400), "alpha: .* is beyond what a float can hold"),
        (lambda: gt.matmul(A, B, alpha=None), "alpha: None is not a number"),
        (lambda: gt.matmul(A, B, beta=float("nan")), "beta: nan is not a number"),
        (lambda: gt.matmul(A, B, layout=None), "layout: None is unknown"),
        (lambda: gt.matmul(A, B, epilogue="drelu", aux=MASK), "aux.dtype: 'bool' .* one bit an element, packed"),
        (lambda: gt.matmul(A, B, epilogue="drelu", aux=MASK[:, :6]), "aux.shape: .* one bit an element, packed"),
        (lambda: gt.matmul(A, B, out=FROZEN), "out: cannot be written"),
        (lambda: gt.matmul(A, np.ones((6, 4), np.float32).T), r"b strides .*\(1, 4\) .* layout='nt'"),
        (lambda: gt.load("matmul"), "workload: 'matmul' is not a Matmul or Conv2d"),
        (lambda: gt.load(gt.Matmul(8, 8, 8), store=3), "store: 3 is neither a Store nor a folder"),
        (lambda: gt.load(gt.Matmul(8, 8, 8), device=3), "device: 3 is no device"),
        (lambda: gt.tune({"m": 3}, trials=2), "workload: .* is not a Matmul or Conv2d"),
        (lambda: gt.tune(gt.Matmul(8, 8, 8), kind="cpu", trials=2), "kind: 'cpu' is unknown; use one of auto"),
        (lambda: gt.tune(gt.Matmul(8, 8, 8), store="a\0b", trials=2), "store: .* is neither"),
        (lambda: gt.tune(gt.Matmul(8, 8, 8), templates="x", trials=2), "templates: 'x' are no mapping"),
        (lambda: gt.tune(gt.Matmul(8, 8, 8), jobs=0, trials=2), "jobs: 0 is not a positive integer"),
        (lambda: gt.tune(gt.Matmul(8, 8, 8), jobs=True, trials=2), "jobs: True is not a positive integer"),
        (lambda: gt.tune(gt.Matmul(8, 8, 8), templates={"x": 5}), r"templates\['x'\]: 5 is no Template; leave them"),
        (lambda: gt.tune(gt.Matmul(8, 8, 8), records=5, trials=2), "records: 5 are neither Records nor a folder; give"),
        (lambda: gt.tune(gt.Matmul(8, 8, 8), force="yes"), "force: 'yes' is neither True nor False; give one"),
        (lambda: gt.tune(gt.Matmul(8, 8, 8), progress=5), "progress: 5 is neither True nor False; give one"),
        (lambda: gt.tune(gt.Matmul(8, 8, 8), on_trial=5), "on_trial: 5 is no function; give one that takes a Progress"),
        (lambda: gt.load(gt.Matmul(8, 8, 8), templates={"x": 5}), r"templates\['x'\]: 5 is no Template; leave them"),
        (lambda: gt.load(gt.Matmul(8, 8, 8), templates=[5]), r"templates: \[5\] are no mapping of names"),
        (lambda: gt.load(gt.Matmul(8, 8, 8), strict="yes"), "strict: 'yes' is neither True nor False; give one"),
        (lambda: gt.matmul(A, B, store=5), "store: 5 is neither a Store nor a folder; give"),
        (lambda: gt.matmul(A[0], B), r"a.shape: \(4,\) is not a matrix .*; give two dimensions, or three"),
        (
            lambda: gt.Conv2d(1, 4, 4, 4, 4, 3, 3, padding="same"),
            "padding: 'same' is not an integer.*; give an integer",
        ),
        (lambda: gt.Matmul(4, 4, 4, deterministic=None), "deterministic: None is not True or False; give one"),
        (
            lambda: gt.Matmul(8, 8, 8, lda=2**31),
            "lda: 2147483648 is not an integer from the row length 8 to 2147483647",
        ),
        (lambda: gt.matmul(A[:, :0], B[:0]), r"a.shape: \(8, 0\) has a size of 0; leave the call out"),
    ],
)
def test_a_bad_argument_is_one_clear_error(no_gpu, call, said):
    with pytest.raises(InvalidInput, match=said):
        call()


def test_a_store_may_be_given_by_its_folder(no_gpu, tmp_path):
    home, w = Store(tmp_path / "kernels"), Matmul(64, 64, 64)
    published = replace(toy_winner_for(w), source="predicted")
    home.publish(published)
    assert gt.load(w, store=str(home.folder)).winner == published


def test_a_good_call_makes_no_words(no_gpu, monkeypatch):
    """A workload's key takes longer to make than all else that a call does on the host."""
    given = example_inputs(WORKLOADS[0])
    monkeypatch.setattr(Matmul, "key", property(lambda w: pytest.fail("made for nothing")))
    gt.matmul(given["a"], given["b"], bias=given["bias"], epilogue="bias+gelu")
