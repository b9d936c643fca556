"""Triton as a baseline: what it compiles, run on the CPU, gives the right product; what it lacks is said.

Where Triton is installed its own PTX runs in the emulator (it needs no GPU to compile). Elsewhere a stand-in compiles a
plain CUDA loop from what it is handed: constants, signature and target must then be right for the result to be.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gpu_tune import reference
from gpu_tune.cuda import driver, nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.emulator import run_plan, unavailable_reason
from gpu_tune.errors import Unavailable
from gpu_tune.measure.baselines import triton as triton_baseline
from gpu_tune.measure.baselines.triton import Config
from gpu_tune.workload import Matmul

TYPES = {"*fp32": "float", "*i8": "signed char", "*i32": "int"}
LOOP = """
extern "C" __global__ void matmul(const {a}* a, const {b}* b, {out}* out, const {bias}* bias, void*, void*) {{
    const int tiles_n = ({N} + {TILE_N} - 1) / {TILE_N};
    const int row0 = blockIdx.x / tiles_n * {TILE_M}, col0 = blockIdx.x % tiles_n * {TILE_N};
    const long long batch = blockIdx.y;
    a += batch * {batch_a}; b += batch * {batch_b}; out += batch * {batch_c};
    for (int i = row0 + threadIdx.x; i < row0 + {TILE_M} && i < {M}; i += {threads})
        for (int j = col0; j < col0 + {TILE_N} && j < {N}; ++j) {{
            {acc} sum = 0;
            for (int k = 0; k < {K}; ++k)
                sum += ({acc})a[i * {stride_am} + k * {stride_ak}] * b[k * {stride_bk} + j * {stride_bn}];
            if ({bias_on}) sum += ({acc})bias[j];
            if ({relu_on}) sum = sum > 0 ? sum : 0;
            out[i * {stride_c} + j] = sum;
        }}
}}
"""


def stand_in() -> dict[str, ModuleType]:
    """Modules ``triton`` and those of its submodules that are imported."""

    def compile_(source: Any, target: Any, options: dict[str, Any]) -> Any:
        names = list(source.signature)
        values = {names[place[0]]: value for place, value in source.constexprs.items()}
        assert {n for n, t in source.signature.items() if t == "constexpr"} == set(values)
        assert set(names) == set(source.fn.__code__.co_varnames[: source.fn.__code__.co_argcount])
        pointers = {n.removesuffix("_ptr"): TYPES[t] for n, t in source.signature.items() if t != "constexpr"}
        assert options["enable_fp_fusion"] is True  # whatever the default of that version
        threads = 32 * options["num_warps"]
        words = {"acc": values["ACC"], "bias_on": int(values["BIAS"]), "relu_on": int(values["ACTIVATION"] == "relu")}
        text = LOOP.format(**values, **pointers, **words, threads=threads)
        arch = f"sm_{target.arch}"
        metadata = SimpleNamespace(shared=0, num_warps=options["num_warps"], global_scratch_size=0)
        asm = {"ptx": nvrtc.to_ptx(text, arch).data.decode(), "cubin": nvrtc.to_cubin(text, arch).data}
        return SimpleNamespace(asm=asm, metadata=metadata)

    triton, language, backends, compiler = (ModuleType(n) for n in ("triton", "language", "backends", "compiler"))
    vars(language).update(int32="int", float32="float", constexpr=None)
    source = lambda fn, signature, constexprs, attrs: SimpleNamespace(**locals())  # noqa: E731
    target = lambda backend, arch, warp: SimpleNamespace(arch=arch)  # noqa: E731
    vars(compiler)["GPUTarget"] = target
    triton.__version__ = "0 (stand-in)"  # type: ignore[attr-defined]
    vars(triton).update(
        jit=lambda f: f, language=language, compiler=SimpleNamespace(ASTSource=source), compile=compile_
    )
    return {"triton": triton, "triton.language": language, "triton.backends": backends,
            "triton.backends.compiler": compiler}  # fmt: skip


KERNEL = "gpu_tune.measure.baselines.triton_kernel"


@pytest.fixture(params=["stand-in", "triton"])
def triton(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> str:
    if unavailable_reason():
        pytest.skip(unavailable_reason())
    if request.param == "triton":
        pytest.importorskip("triton")
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    else:
        for name, module in stand_in().items():
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, KERNEL, raising=False)
    monkeypatch.delattr("gpu_tune.measure.baselines.triton_kernel", raising=False)
    return str(request.param)


SMALL = Config(32, 32, 32, 4, 2)
CASES = [
    *(Matmul(40, 48, 70, dtype="float32", layout=layout) for layout in ("nn", "nt", "tn", "tt")),
    Matmul(40, 48, 64, dtype="float32", lda=72, ldb=52, ldc=56, batch=2),
    Matmul(40, 48, 64, dtype="float32", layout="nt", epilogue="bias+relu"),
    Matmul(40, 48, 64, dtype="int8", layout="nt"),
]
OWN = [  # what only Triton itself compiles
    (Matmul(70, 80, 72, dtype="float16", layout="nt", epilogue="bias+gelu"), "nvidia-a100"),
    (Matmul(70, 80, 72, dtype="bfloat16", layout="tn", epilogue="bias+gelu_tanh"), "nvidia-h200"),
    (Matmul(70, 80, 72, dtype="bfloat16", layout="nt", epilogue="silu"), "nvidia-h200"),
    (Matmul(64, 64, 128, dtype="float8_e4m3", layout="nt", out_dtype="bfloat16"), "nvidia-h200"),
    (Matmul(40, 48, 64, dtype="float32", layout="nt", math=("tf32",)), "nvidia-a100"),
]


def right(w: Matmul, config: Config, chip: str) -> None:
    device = by_name(chip)
    built = triton_baseline.build(w, config, device)
    arrays = reference.example_inputs(w, 1, "integer")
    buffers = {**arrays, "out": reference.allocate(w.arrays()["out"])}
    report = run_plan(built.ptx, built.plan, buffers, arch=device.arch, device=device)
    assert report.ok, str(report)
    found = reference.compare(report.arrays["out"], w, arrays, {})
    assert found.ok, str(found)
    assert built.cubin[:4] == b"\x7fELF"


@pytest.mark.parametrize("w", CASES, ids=lambda w: w.key)
def test_the_kernel_computes_the_workload(triton: str, w: Matmul):
    right(w, SMALL, "nvidia-a100")


@pytest.mark.parametrize("w, chip", OWN, ids=lambda x: x if isinstance(x, str) else x.key)
def test_tensor_cores_and_epilogues_in_tritons_own_ptx(triton: str, w: Matmul, chip: str):
    if triton != "triton":
        pytest.skip("needs Triton")
    right(w, Config(64, 64, 32, 4, 3), chip)


def test_float8_sums_are_promoted_unless_fast_accumulation_is_permitted(triton: str):
    if triton != "triton":
        pytest.skip("needs Triton")
    ptx = []
    for math in ((), ("fast_accumulate",)):
        w = Matmul(64, 64, 256, dtype="float8_e4m3", layout="nt", out_dtype="bfloat16", math=math)
        ptx.append(triton_baseline.build(w, Config(64, 64, 64, 4, 3), by_name("nvidia-h200")).ptx)
        right(w, Config(64, 64, 64, 4, 3), "nvidia-h200")
    strict, fast = (text.count("add.f32") + text.count("add.rn.f32") for text in ptx)
    assert strict > fast


def test_epilogues_that_are_not_fused_are_finished_and_configs_fit_the_output(triton: str):
    fusable = triton_baseline._fusable
    assert fusable(Matmul(8, 8, 8, epilogue="bias+relu")) and not fusable(Matmul(8, 8, 8, epilogue="relu+bias"))
    assert not fusable(Matmul(8, 8, 8, alpha="any")) and not fusable(Matmul(8, 8, 8, epilogue="residual"))
    assert not fusable(Matmul(8, 8, 8, dtype="int8", out_dtype="float16", scales="tensor", layout="nt"))
    assert all(c.m <= 32 for c in triton_baseline._fitting(Matmul(16, 4096, 4096)))
    assert len(triton_baseline._fitting(Matmul(4096, 4096, 4096))) == len(triton_baseline.CONFIGS)


@pytest.mark.parametrize("code, said", [(209, "is not available here"), (2, "")])
def test_code_that_the_driver_does_not_know_is_not_available_and_no_failure(
    triton: str, monkeypatch: pytest.MonkeyPatch, code: int, said: str
):
    """Triton's ptxas may be of a newer CUDA than the driver."""
    if triton != "stand-in":
        pytest.skip("one compiler is enough")

    def refused(*given: Any) -> Any:
        raise driver.DriverError("cuModuleLoadData", code, "CUDA_ERROR")

    monkeypatch.setattr(triton_baseline, "Program", refused)
    monkeypatch.setattr(driver, "version", lambda: (12, 4))
    session: Any = SimpleNamespace(
        data=SimpleNamespace(workload=CASES[0]), device=by_name("nvidia-a100"), note=lambda: None
    )
    with pytest.raises(Unavailable if said else driver.DriverError) as raised:
        triton_baseline.algorithms(session)
    assert said in str(raised.value) and ("driver (CUDA 12.4)" in str(raised.value)) == bool(said)


def test_without_triton_that_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(Unavailable, match=r"Triton is not installed.*pip install triton"):
        triton_baseline.build(CASES[0], SMALL, by_name("nvidia-a100"))
