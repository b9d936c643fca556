"""The float64 references agree with the definitions, and their bounds tell rounding from a wrong element."""

import itertools
import math

import numpy as np
import pytest

from gpu_tune.errors import InvalidInput
from gpu_tune.reference import (
    NUMPY,
    Numerics,
    allocate,
    cast,
    compare,
    example_inputs,
    example_scalars,
    inputs,
    reference,
)
from gpu_tune.workload import DTYPES, OUT_DTYPES, ArraySpec, Conv2d, Matmul


def by_hand_matmul(w, arrays, scalars):
    """Straight from the definition, with Python loops."""
    out = np.zeros(w.arrays()["out"].shape)
    wide = {n: a.astype(float) for n, a in arrays.items()}
    for index in itertools.product(*map(range, out.shape)):
        *lead, i, j = index
        a, b = wide["a"][tuple(lead)], wide["b"][tuple(lead)]
        total = 0.0
        for t in range(w.k):
            x = a[i, t] if w.layout[0] == "n" else a[t, i]
            y = b[t, j] if w.layout[1] == "n" else b[j, t]
            s = 1.0
            if w.scales == "tensor":
                s = wide["scale_a"][0] * wide["scale_b"][0]
            elif w.scales == "row_col":
                s = wide["scale_a"][i] * wide["scale_b"][j]
            elif w.scales == "block128":
                s = wide["scale_a"][i, t // 128] * wide["scale_b"][j // 128, t // 128]
            total += x * y * s
        v = total * scalars.get("alpha", 1.0)
        if w.beta != "0":
            v += scalars.get("beta", 1.0) * wide["c"][index]
        for op in w.ops:
            if op.name in ("scale", "bias", "row_bias"):
                operand = wide[op.name][i if op.name == "row_bias" else j]
                v = v * operand if op.name == "scale" else v + operand
            elif op.name == "residual":
                v += wide["residual"][index]
            elif op.name == "relu":
                v = max(v, 0.0)
            elif op.name == "gelu":
                v = 0.5 * v * (1 + math.erf(v / math.sqrt(2)))
            elif op.name == "gelu_tanh":
                v = 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
            elif op.name == "silu":
                v = v / (1 + math.exp(-v))
            else:
                v = min(max(v, op.lo), op.hi)
        out[index] = v
    return out


def by_hand_conv(w, arrays):
    x, f = arrays["x"].astype(float), arrays["w"].astype(float)
    if w.layout == "nhwc":
        x, f = x.transpose(0, 3, 1, 2), f.transpose(0, 3, 1, 2)
    out = np.zeros((w.n, w.k, w.p, w.q))
    cg, kg = w.c // w.groups, w.k // w.groups
    for n, k, p, q in itertools.product(range(w.n), range(w.k), range(w.p), range(w.q)):
        for c, r, s in itertools.product(range(cg), range(w.r), range(w.s)):
            row = p * w.stride[0] + r * w.dilation[0] - w.padding[0]
            column = q * w.stride[1] + s * w.dilation[1] - w.padding[2]
            if 0 <= row < w.h and 0 <= column < w.w:
                out[n, k, p, q] += x[n, (k // kg) * cg + c, row, column] * f[k, c, r, s]
    return out.transpose(0, 2, 3, 1) if w.layout == "nhwc" else out


@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize(
    "fields",
    [
        dict(dtype="float32", batch=2, lda=12, ldb=11, ldc=9, alpha="any", beta="any"),
        dict(dtype="bfloat16", epilogue="scale+bias+gelu+residual"),
        dict(dtype="float16", epilogue="row_bias+silu+clamp(-1,1)", beta="1"),
        dict(dtype="int8", out_dtype="float32", scales="row_col", epilogue="gelu_tanh"),
        dict(dtype="float8_e4m3", scales="tensor", epilogue="relu"),
    ],
)
def test_matmul_reference_agrees_with_the_definition(layout, fields):
    w = Matmul(5, 6, 7, layout=layout, **fields)
    arrays, scalars = example_inputs(w, 3), example_scalars(w)
    np.testing.assert_allclose(
        reference(w, arrays, scalars), by_hand_matmul(w, arrays, scalars), rtol=1e-12, atol=1e-12
    )


def test_block_scaled_reference_agrees_with_the_definition():
    w = Matmul(3, 130, 260, dtype="float8_e4m3", layout="nt", scales="block128")
    arrays = example_inputs(w, 1)
    np.testing.assert_allclose(reference(w, arrays), by_hand_matmul(w, arrays, {}), rtol=1e-12)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    "fields",
    [
        dict(padding=1),
        dict(stride=(2, 1), padding=(1, 0, 2, 1), dilation=(1, 2)),
        dict(groups=2, padding=1),
        dict(groups=4),
    ],
)
def test_conv_reference_agrees_with_the_definition(layout, fields):
    w = Conv2d(2, 4, 6, 7, 8, 3, 2, layout=layout, dtype="float32", **fields)
    arrays = example_inputs(w, 2)
    np.testing.assert_allclose(reference(w, arrays), by_hand_conv(w, arrays), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "out_dtype"), [(d, o) for d in DTYPES for o in OUT_DTYPES[d]])
def test_the_rounded_reference_is_right_and_one_wrong_element_is_seen(dtype, out_dtype):
    w = Matmul(9, 10, 11, dtype=dtype, out_dtype=out_dtype)
    for kind in ("normal", "integer"):
        arrays = example_inputs(w, 0, kind)
        out = cast(reference(w, arrays), out_dtype)
        assert compare(out, w, arrays, exact=kind == "integer").ok
    wrong = out.copy()
    wrong[4, 5] = np.asarray(float(out[4, 5]) + 4).astype(out.dtype)
    found = compare(wrong, w, arrays, exact=True)
    assert not found.ok and found.wrong == 1 and found.index == (4, 5) and "(4, 5)" in str(found)


def test_float32_summation_in_another_order_is_within_the_bound_and_a_dropped_product_is_not():
    w = Matmul(16, 16, 2000, dtype="float32")
    arrays = example_inputs(w, 0)
    a, b = arrays["a"], arrays["b"]
    out = np.zeros((16, 16), np.float32)
    for t in reversed(range(w.k)):
        out += np.outer(a[:, t], b[t])
    assert compare(out, w, arrays).ok
    assert not compare(out - np.outer(a[:, 3], b[3]), w, arrays).ok


def test_nan_must_be_nan_and_infinities_must_agree():
    w = Matmul(2, 2, 2, dtype="float32")
    arrays = example_inputs(w, 0)
    arrays["a"][0, 0], arrays["a"][1, 1] = np.nan, np.inf
    out = reference(w, arrays).astype(np.float32)
    assert np.isnan(out[0]).all() and compare(out, w, arrays).ok
    out[0, 0] = 1.0
    assert not compare(out, w, arrays).ok
    out[0, 0], out[1, 0] = np.nan, -out[1, 0]
    assert not compare(out, w, arrays).ok


def test_a_permission_widens_the_bound():
    w = Matmul(8, 8, 256, dtype="float32", math=("tf32",))
    arrays = example_inputs(w, 0)
    rounded = {n: (a.view(np.uint32) + 0x1000 & 0xFFFFE000).view(np.float32) for n, a in arrays.items()}
    out = reference(w, rounded).astype(np.float32)
    assert not compare(out, w, arrays).ok
    assert compare(out, w, arrays, numerics=Numerics(input_eps=2.0**-10)).ok


def test_casts_round_to_even_and_saturate():
    assert list(cast(np.array([0.5, 1.5, 200.0, -200.0, np.nan]), "int8")) == [0, 2, 127, -128, 0]
    assert list(cast(np.array([1e9, -1e9]), "float8_e4m3").astype(float)) == [448.0, -448.0]
    assert list(cast(np.array([1e9]), "float8_e5m2").astype(float)) == [57344.0]
    assert np.isinf(cast(np.array([1e6]), "float16").astype(float)).all()


def test_allocated_memory_ends_with_the_last_element_and_gaps_are_poisoned():
    spec = ArraySpec((3, 4), "float32", (6, 1))
    array = allocate(spec, np.nan)
    assert array.shape == (3, 4) and array.strides == (24, 4) and np.frombuffer(array.base, np.float32).size == 16
    inputs = example_inputs(Matmul(3, 4, 4, dtype="float32", lda=6))
    memory = np.frombuffer(inputs["a"].base, np.float32)
    assert memory.size == 16 and np.isnan(memory[4:6]).all() and np.isfinite(inputs["a"]).all()


def test_inputs_are_a_function_of_the_seed():
    w = Matmul(8, 8, 8, dtype="bfloat16")
    one, same, other = example_inputs(w, 1), example_inputs(w, 1), example_inputs(w, 2)
    assert (one["a"] == same["a"]).all() and (one["a"] != other["a"]).any()
    assert one["a"].dtype == NUMPY["bfloat16"]
    with pytest.raises(InvalidInput, match="normal"):
        example_inputs(w, kind="zeros")


def test_large_inputs_are_drawn_in_pieces_the_same_on_any_machine(monkeypatch: pytest.MonkeyPatch):
    w = Matmul(300, 70, 50, dtype="bfloat16", layout="nt", lda=56, epilogue="residual")
    monkeypatch.setattr(inputs, "_LARGE", 1000)
    monkeypatch.setattr(inputs, "_PIECE", 700)
    made = example_inputs(w, 4)
    monkeypatch.setattr(inputs.os, "sched_getaffinity", lambda _: {0})
    for name, array in example_inputs(w, 4).items():
        assert array.tobytes() == made[name].tobytes()
    a = made["a"].astype(np.float64)
    assert abs(a.mean()) < 0.05 and abs(a.std() - 1) < 0.05 and len(np.unique(a[:, 0])) > 100
    assert np.isnan(np.lib.stride_tricks.as_strided(made["a"], (299, 56), (112, 2))[:, 50:].astype(float)).all()
    whole = example_inputs(w, 4, "integer")["b"].astype(np.float64)
    assert set(np.unique(whole)) == {-2.0, -1.0, 0.0, 1.0, 2.0}


def test_bfloat16_by_hand_rounds_as_ml_dtypes_does():
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    np.testing.assert_array_equal(
        inputs.rounded(values, NUMPY["bfloat16"]).view(np.uint16), values.astype(NUMPY["bfloat16"]).view(np.uint16)
    )
