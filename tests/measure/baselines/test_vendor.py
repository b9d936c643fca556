"""cuBLAS and cuBLASLt are called as their headers say; what they cannot fuse is finished by one kernel of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_tune import reference
from gpu_tune.cuda import cublas
from gpu_tune.cuda.device import by_name
from gpu_tune.emulator import run_plan, unavailable_reason
from gpu_tune.measure import baselines, runtime
from gpu_tune.measure.baselines import unfused_epilogue
from gpu_tune.measure.check import Checker
from gpu_tune.measure.device_data import DeviceData
from gpu_tune.measure.worker import no_note
from gpu_tune.workload import Conv2d, Matmul

H200 = by_name("nvidia-h200")
HERE = Path(__file__).parent


@pytest.fixture
def prepared(fake_cuda: Path):
    cublas.load.cache_clear()
    runtime.start(0)
    owned: list[Any] = []

    def prepare(workload: Any, names: tuple[str, ...] = ("cublas", "cublaslt")):
        stream = runtime.new_stream()
        data = DeviceData(workload, 0, 4096)
        owned.append(data)
        return baselines.prepare(names, data, Checker(data, stream), stream, H200, no_note)

    yield prepare
    for data in owned:
        data.close()
    cublas.load.cache_clear()


@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_every_layout_and_leading_dimension_gives_the_right_product(prepared: Any, layout: str):
    rows = {"n": 13, "t": 17}[layout[0]], {"n": 11, "t": 13}[layout[1]]
    w = Matmul(17, 11, 13, dtype="float32", layout=layout, lda=rows[0] + 2, ldb=rows[1] + 3, ldc=15)
    good, missing = prepared(w)
    assert [b.name for b in good] == ["cublas", "cublaslt"] and not missing


def test_batches_go_in_one_call(prepared: Any):
    good, missing = prepared(Matmul(5, 6, 7, batch=3, dtype="float32", layout="nt", ldc=8))
    assert [b.name for b in good] == ["cublas", "cublaslt"] and not missing


def test_the_fastest_algorithm_is_taken_and_one_that_fails_is_not(prepared: Any):
    good, _ = prepared(Matmul(8, 8, 8, dtype="float32"), ("cublaslt",))
    assert "algorithm 1, fastest of 3" in good[0].label


F8 = {"dtype": "float8_e4m3", "layout": "nt", "out_dtype": "bfloat16"}


@pytest.mark.parametrize(
    "w",
    [
        Matmul(132, 8, 300, **F8, scales="block128"),
        Matmul(8, 132, 300, **F8, scales="block128", math=("fast_accumulate",)),
        Matmul(12, 24, 64, **F8, scales="tensor"),
        Matmul(12, 24, 64, **F8, scales="row_col"),
        Matmul(12, 24, 64, dtype="int8", layout="nt"),
    ],
    ids=lambda w: w.key,
)
def test_scales_go_where_cublaslt_wants_them_and_integers_stay_exact(prepared: Any, w: Matmul):
    good, missing = prepared(w, ("cublaslt",))
    assert len(good) == 1 and not missing, missing
    assert ("laid out" in good[0].label) == (w.scales == "block128")
    assert ("fast accumulation" in good[0].label) == bool(w.math)


def test_block_scales_that_cublaslt_cannot_take_are_refused(prepared: Any):
    _, missing = prepared(Matmul(14, 12, 256, **F8, scales="block128"), ("cublaslt",))
    assert "multiples of 4" in missing["cublaslt"]


@pytest.mark.parametrize("epilogue", ["relu", "bias", "bias+relu"])
def test_what_cublaslt_fuses_is_fused_and_right(prepared: Any, epilogue: str):
    good, missing = prepared(Matmul(9, 12, 8, dtype="float32", epilogue=epilogue), ("cublaslt",))
    assert f"with fused {epilogue}" in good[0].label and not missing


def test_alpha_and_beta_are_passed_out_of_place(prepared: Any):
    good, missing = prepared(Matmul(9, 12, 8, dtype="float32", alpha="any", beta="any"), ("cublaslt",))
    assert len(good) == 1 and "elementwise" not in good[0].label and not missing, missing


def test_a_baseline_whose_result_is_wrong_does_not_compete(prepared: Any):
    # the virtual GPU does not run the elementwise kernel: the product comes out without its epilogue
    good, missing = prepared(Matmul(9, 12, 8, dtype="float32", epilogue="bias+gelu"))
    assert not good and set(missing) == {"cublas", "cublaslt"} and "its result is wrong" in missing["cublas"]


def test_what_a_library_cannot_do_is_said(prepared: Any):
    _, missing = prepared(Conv2d(1, 4, 5, 5, 4, 3, 3, dtype="float32"), ("cublas", "abacus"))
    assert missing == {
        "cublas": "multiplies matrices",
        "abacus": "is unknown; use cublas, cublaslt, cudnn, torch, triton",
    }
    _, missing = prepared(Matmul(8, 8, 8, dtype="float32"), ("cudnn",))
    assert "convolutions" in missing["cudnn"]


CASES = [
    Matmul(10, 24, 8, dtype="float16", epilogue="bias+gelu(aux)"),
    Matmul(10, 21, 8, dtype="float32", epilogue="relu(aux)"),
    Matmul(7, 13, 8, dtype="bfloat16", epilogue="residual+relu", beta="any", alpha="any"),
    Matmul(6, 16, 8, batch=2, dtype="float32", epilogue="row_bias+silu", ldc=20),
    Matmul(8, 32, 16, dtype="int8", out_dtype="float16", scales="row_col", layout="nt"),
    Matmul(
        8, 32, 16, dtype="float8_e4m3", out_dtype="bfloat16", scales="tensor", epilogue="scale+clamp(-1,1)", layout="nt"
    ),
]


@pytest.mark.parametrize("w", CASES, ids=lambda w: w.key)
def test_the_elementwise_kernel_finishes_a_plain_product(w: Matmul):
    if unavailable_reason():
        pytest.skip(unavailable_reason())
    given = "int32" if w.dtype == "int8" else w.out_dtype
    arrays = reference.example_inputs(w, 1, "integer")
    wide = {n: a.astype(np.float64) for n, a in arrays.items()}
    a = wide["a"] if w.layout[0] == "n" else np.swapaxes(wide["a"], -1, -2)
    b = wide["b"] if w.layout[1] == "n" else np.swapaxes(wide["b"], -1, -2)
    out = w.arrays()["out"]
    plain = reference.allocate(type(out)(out.shape, given, out.strides))
    plain[...] = (a @ b).astype(plain.dtype)
    buffers = {**{n: v for n, v in arrays.items() if n not in ("a", "b")}, "workspace": plain}
    results = reference.empty_results(w)
    buffers |= results
    scalars = {n: v for n, v in (("alpha", 0.5), ("beta", 2.0)) if n in w.scalars()}
    source, plan = unfused_epilogue.source(w, given, H200), unfused_epilogue.plan(w, given)
    report = run_plan(source, plan, buffers, scalars=scalars, arch="sm_90a", device=H200, writes=w.outputs)
    assert report.ok, str(report)
    found = reference.compare({n: report.arrays[n] for n in results}, w, arrays, scalars)
    assert found.ok, str(found)


def test_numbers_and_sizes_are_those_of_the_headers(tmp_path: Path, fake_libcuda: Path):
    found = [p.parent for f in sys.path for p in Path(f or ".").glob("nvidia/cu*/include/cublasLt.h")]
    if not found:
        pytest.skip("no cublasLt.h on this machine (install gpu_tune[cuda13])")
    headers = found[0]
    types = {"32F": "float32", "16F": "float16", "16BF": "bfloat16", "8I": "int8", "32I": "int32"}
    types |= {"8F_E4M3": "float8_e4m3", "8F_E5M2": "float8_e5m2"}
    compute = {"16F": "fp16", "32F": "fp32", "32F_FAST_TF32": "tf32", "32I": "int32"}
    epilogues = {"DEFAULT": "", "RELU": "relu", "BIAS": "bias", "RELU_BIAS": "bias+relu", "GELU": "gelu_tanh"}
    epilogues |= {"GELU_BIAS": "bias+gelu_tanh", "RELU_AUX": "relu(aux)", "RELU_AUX_BIAS": "bias+relu(aux)"}
    epilogues |= {"GELU_AUX": "gelu_tanh(aux)", "GELU_AUX_BIAS": "bias+gelu_tanh(aux)"}
    epilogues |= {"DRELU": "drelu", "DGELU": "dgelu_tanh"}
    epilogues |= {"DRELU_BGRAD": "drelu+dbias", "DGELU_BGRAD": "dgelu_tanh+dbias"}
    desc = {
        "TRANSA": "transa",
        "TRANSB": "transb",
        "EPILOGUE": "epilogue",
        "BIAS_POINTER": "bias",
        "FAST_ACCUM": "fast",
    }
    desc |= {"EPILOGUE_AUX_POINTER": "aux", "EPILOGUE_AUX_LD": "aux_ld", "EPILOGUE_AUX_BATCH_STRIDE": "aux_stride"}
    desc |= {"A_SCALE_POINTER": "scale_a", "B_SCALE_POINTER": "scale_b", "BIAS_DATA_TYPE": "bias_type"}
    desc |= {"A_SCALE_MODE": "mode_a", "B_SCALE_MODE": "mode_b"}
    modes = {"SCALAR_32F": "tensor", "OUTER_VEC_32F": "row_col", "VEC128_32F": "vector128"}
    modes |= {"BLK128x128_32F": "block128"}
    checks = {
        **{f"CUDA_R_{n}": cublas.TYPES[t] for n, t in types.items()},
        **{f"CUBLAS_COMPUTE_{n}": cublas.COMPUTE[t] for n, t in compute.items()},
        **{f"CUBLASLT_EPILOGUE_{n}": cublas.EPILOGUES[t] for n, t in epilogues.items()},
        **{f"CUBLASLT_MATMUL_DESC_{n}": cublas._DESC[t] for n, t in desc.items()},
        **{f"CUBLASLT_MATMUL_MATRIX_SCALE_{n}": cublas.SCALE_MODES[m] for n, m in modes.items()},
        "CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT": cublas._LAYOUT_BATCH,
        "CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET": cublas._LAYOUT_STRIDE,
        "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": cublas._PREF_WORKSPACE,
        "CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK": cublas._PREF_REDUCTIONS,
        **{f"CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{x}_BYTES": cublas._PREF_ALIGNMENT_A + i for i, x in enumerate("ABCD")},
        "CUBLASLT_REDUCTION_SCHEME_NONE + CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE": cublas._REDUCE_IN_COMPUTE_TYPE,
        "CUBLASLT_REDUCTION_SCHEME_MASK": cublas._REDUCE_ANYHOW,
        "CUBLAS_DEFAULT_MATH + CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION": cublas._STRICT_REDUCTION,
        "CUBLAS_GEMM_DEFAULT": -1,
        "CUBLAS_OP_T": 1,
        "sizeof(cublasLtMatmulHeuristicResult_t)": 96,
        "offsetof(cublasLtMatmulHeuristicResult_t, state)": 72,
    }
    fields = cublas.Algorithm.workspace.offset, cublas.Algorithm.state.offset, cublas.Algorithm.waves.offset
    assert fields == (64, 72, 76)
    guards = "".join(f"#define __CUDA_{t}_H__\n" for t in ("FP16", "BF16", "FP8"))
    guards += "struct __half; struct __nv_bfloat16;\n"
    lines = "\n".join(f'static_assert(long({name}) == {value}, "{name}");' for name, value in checks.items())
    source = f"{guards}#include <cstddef>\n#include <cublasLt.h>\n#include <cublas_v2.h>\n{lines}\n"
    (tmp_path / "check.cpp").write_text(source)
    include = ["-I", str(headers), "-I", str(HERE.parent / "helpers" / "fake_cuda")]
    subprocess.run(["g++", "-std=c++17", "-fsyntax-only", *include, str(tmp_path / "check.cpp")], check=True)
