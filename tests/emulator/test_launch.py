"""``gpu_tune.emulate`` and ``Session``: every kind of argument, several launches, levels, refusals, and the plugin."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import gpu_tune as gt
from gpu_tune.cli import main
from gpu_tune.emulator import build
from gpu_tune.emulator.report import KINDS
from gpu_tune.errors import EmulationError, InvalidInput
from tests.emulator.test_allowed import kernel
from tests.helpers.emulator.snippets import needs_emulator, needs_nvrtc

pytestmark = needs_emulator
FOLDER = Path(build.__file__).parent

CUDA = r"""
struct Pair { float* data; float by; int n; };
template <class T> __device__ T twice(T x) { return x + x; }
__constant__ float weights[4];
__device__ int launches;
__global__ void scale(Pair p) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) p.data[i] *= p.by;
  if (i == 0) ++launches;
}
template <class T> __global__ void add(const T* a, T* b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) b[i] += twice(a[i]);
}
template __global__ void add<float>(const float*, float*, int);
template __global__ void add<int>(const int*, int*, int);
__global__ void weighted(const float* a, float* b) { b[threadIdx.x] = a[threadIdx.x] * weights[threadIdx.x % 4]; }
"""


@needs_nvrtc
def test_several_launches_share_memory_and_variables() -> None:
    x, y = np.arange(100, dtype=np.float32), np.zeros(100, np.float32)
    with gt.Session(CUDA) as gpu:
        assert gpu.launch("scale", 1, 128, [gt.Struct([x, np.float32(3), np.int32(100)])])
        assert gpu.launch("add<float>", 1, 128, [x, y, 100])
        assert gpu.launch("scale", 1, 128, [gt.Struct({0: y[50:], 8: np.float32(10), 12: np.int32(50)})])
        assert gpu.symbol("launches", np.int32)[0] == 2
        after = gpu.array(y)
    assert gpu.report().ok and not gpu.report().findings
    want = 6 * np.arange(100, dtype=np.float32)
    want[50:] *= 10
    assert np.array_equal(after, want) and np.array_equal(gpu.report().arrays["arg1"], want)
    assert x[1] == 1 and not y.any()  # the caller's stay as they are


@needs_nvrtc
def test_kernels_by_name_and_variables_by_name() -> None:
    x, y = np.ones(8, np.float32), np.zeros(8, np.float32)
    weights = np.array([1, 2, 3, 4], np.float32)
    report = gt.emulate(CUDA, "weighted", block=8, args=[x, y], symbols={"weights": weights})
    assert list(report.results[1]) == [1, 2, 3, 4] * 2
    assert (
        gt.emulate(CUDA, r"add<int>\(", block=8, args=[np.ones(8, "i4"), np.zeros(8, "i4"), 8]).results[1].sum() == 16
    )
    with pytest.raises(InvalidInput, match=r"fits 2 kernels.*add<float>.*add<int>"):
        gt.emulate(CUDA, "add", args=[x, y, 8])
    with pytest.raises(InvalidInput, match="is no variable of the module"):
        gt.emulate(CUDA, "weighted", block=8, args=[x, y], symbols={"heights": weights})


@needs_nvrtc
@pytest.mark.parametrize(
    ("args", "rule"),
    [
        ([np.ones(4, "f4")], "are not the 3 it takes"),
        ([np.ones(4, "f4"), np.ones(4, "f4"), np.int64(4)], "has 8 bytes"),
        ([np.ones(4, "f4"), np.ones(4, "f4"), 2**40], "does not fit"),
        ([[1, 2], np.ones(4, "f4"), 4], "is no array"),
        ([np.ones(4, "f4"), np.ones(4, "f4"), 4.0], r"args\[2\]: 4.0 is a float where the kernel takes a whole number"),
        ([np.ones(4, "f4"), np.ones(4, "f4"), np.float32(4)], "is a float where the kernel takes a whole number"),
        (None, "args: are None, not a list; give an entry for each parameter"),
        (np.ones(4, "f4"), "args: are a value of type ndarray, not a list"),
    ],
)
def test_arguments_that_do_not_fit(args: Any, rule: str) -> None:
    with pytest.raises(InvalidInput, match=rule):
        gt.emulate(CUDA, "add<float>", block=4, args=args)


SCALE = kernel(
    """ld.param.u64 %p, [a];
mad.wide.u32 %p, %t, 4, %p;
ld.param.b32 %v, [s];
st.global.u32 [%p], %v;""",
    ".param .u64 a, .param .f32 s",
)


def test_a_whole_number_is_the_float_that_a_kernel_takes() -> None:
    out = np.zeros(32, np.float32)
    assert gt.emulate(SCALE, block=32, args=[out, 2]).results[0][0] == 2.0
    with pytest.raises(InvalidInput, match=r"is an int32 where the kernel takes a float \(f32\); pass np.float32"):
        gt.emulate(SCALE, block=32, args=[out, np.int32(2)])


def test_kinds_of_findings_are_known() -> None:
    a = np.zeros(32, np.uint32)
    with pytest.raises(InvalidInput, match=r"ignore: 'rase' is no kind of finding; kinds are bounds, .*race"):
        gt.emulate(COPY, block=32, args=[a, a], ignore=["rase"])
    with pytest.raises(InvalidInput, match=r"is text and no list of kinds; give ignore=\['race'\]"):
        gt.emulate(COPY, block=32, args=[a, a], ignore="race")
    pattern = re.compile(r'\b(?:stop|halt|fault|report|advise)\((?:\w+ \? "(\w+)" : )?"(\w+)"')
    told = {k for f in FOLDER.glob("*.cpp") for pair in pattern.findall(f.read_text()) for k in pair if k}
    assert {"race", "deadlock", "unfenced", "read_only", "assert"} <= told <= set(KINDS)


COPY = kernel(
    """ld.param.u64 %p, [a];
ld.param.u64 %m, [b];
mad.wide.u32 %p, %t, 4, %p;
mad.wide.u32 %m, %t, 4, %m;
ld.global.u32 %v, [%p];
st.global.u32 [%m], %v;""",
    ".param .u64 a, .param .u64 b",
)


def test_a_run_stops_at_the_first_fault_or_never() -> None:
    short, out = np.arange(1, 9, dtype=np.uint32), np.full(32, 7, np.uint32)
    report = gt.emulate(COPY, block=32, args=[short, out])
    assert report.stopped and [f.kind for f in report.errors] == ["bounds"] and (report.results[1] == 7).all()
    report = gt.emulate(COPY, block=32, args=[short, out], stop="never")
    assert not report.stopped and report.counted == {"bounds": 24}
    assert list(report.results[1]) == [*range(1, 9), *[0] * 24]  # what lies outside reads as zero
    report = gt.emulate(COPY, block=32, args=[short, out], ignore=["bounds"])
    assert report.ok and not report.findings
    with pytest.raises(InvalidInput, match="first"):
        gt.emulate(COPY, block=32, args=[short, out], stop="later")


def test_a_bulk_store_far_outside_its_buffer_is_left_out_where_the_run_goes_on() -> None:
    far = kernel(
        """mov.u32 %b, s;
st.shared.v4.b32 [%b], {1, 2, 3, 4};
fence.proxy.async.shared::cta;
ld.param.u64 %p, [a];
cp.async.bulk.global.shared::cta.bulk_group [%p], [%b], 16;
add.u64 %p, %p, 1048576;
cp.async.bulk.global.shared::cta.bulk_group [%p], [%b], 16;
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;"""
    )
    report = gt.emulate(far, block=1, args=[np.zeros(8, np.uint32)], stop="never")
    assert report.counted == {"bounds": 1} and "at byte 1048576 of buffer" in report.findings[0].message
    assert list(report.results[0]) == [1, 2, 3, 4, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("grid", "block", "said"),
    [
        (1, 1025, "launch: kernel k: a block of 1025 x 1 x 1 threads; 1024 are the most"),
        (1, (1, 1, 65), "1024 are the most, 64 of them along z"),
        (1, (1 << 16, 1 << 16), "1024 are the most"),  # 2^32 threads, which 32 bits count as none
        ((1, 65536), 32, "launch: kernel k: a grid of 1 x 65536 x 1 blocks"),
        (1 << 31, 32, "2147483647 x 65535 x 65535 are the most"),
        ((1 << 16, 1 << 15, 2), 32, "limit: kernel k: 4294967296 blocks of 1 warps are more than the emulator runs"),
    ],
)
def test_launches_that_no_device_takes(grid: Any, block: Any, said: str) -> None:
    a = np.zeros(32, np.uint32)
    report = gt.emulate(COPY, grid=grid, block=block, args=[a, a])
    assert not report.ok and said in str(report)


@pytest.mark.parametrize("wrong", [0, 1.5, "4", (), (1, 1, 1, 1), (2.0,), 1 << 32])
def test_sizes_of_a_grid_are_whole(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="is not one to three positive integers"):
        gt.emulate(COPY, grid=wrong, block=32, args=[np.zeros(32, np.uint32)] * 2)


def test_what_is_no_source_and_no_array_of_numbers(tmp_path: Any) -> None:
    with pytest.raises(InvalidInput, match="'PosixPath' is no text; pass the content of a file"):
        gt.emulate(tmp_path / "kernel.cu", block=32)
    with pytest.raises(InvalidInput, match=r"'ok.cu' is the name of a file, where its content is wanted; pass Path"):
        gt.emulate("ok.cu", block=32)
    with pytest.raises(InvalidInput, match="kernel: 3 is no name"):
        gt.emulate(COPY, kernel=3)  # type: ignore[arg-type]
    objects = np.zeros(32, object)
    with pytest.raises(InvalidInput, match="'array of objects' holds no numbers"):
        gt.emulate(COPY, block=32, args=[objects, objects])


def test_arrays_that_are_not_writeable_may_only_be_read() -> None:
    a, b = np.arange(32, dtype=np.uint32), np.zeros(32, np.uint32)
    b.flags.writeable = False
    assert [f.kind for f in gt.emulate(COPY, block=32, args=[a, b]).findings] == ["read_only"]
    assert [f.kind for f in gt.emulate(COPY, block=32, args=[a, None]).findings] == ["bounds"]


def test_few_findings_of_a_kind_are_kept_and_all_are_counted() -> None:
    body = "ld.param.u64 %p, [a];\n" + "mov.u32 %v, %t;\nst.global.u32 [%p], %v;\n" * 40
    report = gt.emulate(kernel(body), grid=20, block=32, args=[np.zeros(1, np.uint32)])
    assert len(report.findings) == 16 and report.counted["global_race"] > 1000
    assert "more of kind global_race" in str(report)


def test_only_the_kernel_that_is_launched_has_to_be_supported() -> None:
    other = (
        kernel("tex.2d.v4.f32.s32 {%v, %v, %v, %v}, [%m, {%v, %v}];").replace(" k(", " other(").replace(gt_head(), "")
    )
    text = COPY + other
    a = np.arange(32, dtype=np.uint32)
    assert np.array_equal(gt.emulate(text, "k", block=32, args=[a, np.zeros_like(a)]).results[1], a)
    with pytest.raises(EmulationError, match=r"refuses kernel 'other': PTX line \d+: unsupported instruction tex\.2d"):
        gt.emulate(text, "other", args=[a])


def gt_head() -> str:
    return COPY[: COPY.index(".visible")]


HOST = (
    ".extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 v);\n"
    ".extern .func __assertfail (.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 s);\n"
    ".global .align 1 .b8 form[9] = {37, 100, 32, 37, 46, 49, 102, 10, 0};\n"
    ".global .align 1 .b8 what[3] = {110, 62, 48};\n"
)


def test_what_a_kernel_prints_and_asserts() -> None:
    text = kernel(
        """.local .align 8 .b8 values[16];
.reg .f64 %f;
mov.u64 %p, values;
cvta.local.u64 %p, %p;
st.local.u32 [values], %t;
mov.f64 %f, 0d4004000000000000;
st.local.f64 [values+8], %f;
{ .param .b64 x; .param .b64 y; .param .b32 z;
mov.u64 %m, form;
st.param.b64 [x], %m;
st.param.b64 [y], %p;
call.uni (z), vprintf, (x, y);
}
setp.ne.u32 %q, %t, 1;
@%q bra E;
{ .param .b64 x; .param .b64 y; .param .b32 z; .param .b64 u; .param .b64 w;
mov.u64 %m, what;
st.param.b64 [x], %m;
st.param.b64 [y], %m;
st.param.b32 [z], 42;
st.param.b64 [u], %m;
st.param.b64 [w], %m;
call.uni __assertfail, (x, y, z, u, w);
}
E:""",
        "",
    )
    report = gt.emulate(text.replace(".visible", HOST + ".visible"), block=2)
    assert report.printed == "[k block (0,0,0) thread 0] 0 2.5\n[k block (0,0,0) thread 1] 1 2.5\n"
    (finding,) = report.findings
    assert finding.kind == "assert" and "assertion `n>0` failed at n>0:42" in finding.message


@needs_nvrtc
def test_the_command_says_what_it_finds(tmp_path: Any) -> None:
    path = tmp_path / "kernel.cu"
    path.write_text(CUDA)
    args = ["emulate", str(path), "--kernel", "add<float>", "--block", "64"]
    numbers = ["--arg", "arange:float32[64]", "--arg", "zeros:float32[64]", "--arg", "int32=64"]
    done = CliRunner().invoke(main, [*args, *numbers])
    assert done.exit_code == 0 and "arg1: float32 [64] 0.0, 2.0, 4.0" in done.output, done.output
    done = CliRunner().invoke(main, [*args, *numbers[:4], "--arg", "int32=65"])
    assert done.exit_code == 0, done.output  # 64 threads
    done = CliRunner().invoke(main, [*args[:4], "--block", "65", *numbers[:4], "--arg", "int32=65"])
    assert done.exit_code == 1 and "bounds" in done.output, done.output


@needs_nvrtc
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--arg", "float32[4,-1]"], "is no argument"),
        (["--arg", "zeros:float32[99999999999999]"], "is more than this machine's memory holds"),
        (["--kernel", "zz"], "fits 0 kernels of the module; name one: a, b"),  # "a" is no mangled "signed char"
        (["--kernel", "a", "--arg", "zeros:float32[32]", "--save", "{file}/inside"], "cannot be written"),
    ],
)
def test_the_command_refuses(tmp_path: Any, options: list[str], said: str) -> None:
    file = tmp_path / "kernel.cu"
    file.write_text("\n".join(f'extern "C" __global__ void {k}(float* x) {{ x[threadIdx.x] = 1; }}' for k in "ab"))
    done = CliRunner().invoke(main, ["emulate", str(file), *(o.format(file=file) for o in options)])
    assert done.exit_code == 2 and said in done.output, done.output


PLUGIN = """
import numpy as np
import pytest
from tests.emulator.test_launch import COPY

def test_right(emulated_gpu):
    a = np.arange(32, dtype=np.uint32)
    _, b = emulated_gpu(COPY, block=32, args=[a, np.zeros_like(a)])
    assert np.array_equal(a, b)

def test_wrong(emulated_gpu):
    emulated_gpu(COPY, block=33, args=[np.zeros(32, np.uint32), np.zeros(33, np.uint32)])
"""


def test_the_pytest_fixture(tmp_path: Any) -> None:
    import subprocess
    import sys
    from pathlib import Path

    (tmp_path / "test_it.py").write_text(PLUGIN)
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:gpu_tune",  # where the package is installed, its entry point names the plugin as well
        "-p",
        "gpu_tune.emulator.pytest_plugin",
        "-c",
        "/dev/null",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment(root))
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "load of 4 bytes at byte 128 of buffer `arg0` (128 bytes)" in done.stdout


def environment(root: Any) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(root), "PYTEST_ADDOPTS": ""}


def test_malformed_texts_end_in_a_result_or_an_error() -> None:
    """A bounded run of ``python -m bench.emulator.fuzz``."""
    from bench.emulator import fuzz
    from tests.emulator import test_allowed

    corpus = [t for twin in test_allowed.TWINS for t in (twin.right, twin.wrong)]
    done, loaded, failures = fuzz.run(corpus, inputs=1500, seed=1)
    assert done == 1500 and loaded > 100 and not failures, failures
