"""A matmul in Triton, as its users write one: tiles, grouped raster, a pipelined loop over K, fused epilogue.

Imported only where Triton is installed. Strides are in elements; what is ``constexpr`` is compiled in.
"""

import triton
import triton.language as tl


@triton.jit
def matmul(
    a_ptr,
    b_ptr,
    out_ptr,
    bias_ptr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    stride_am: tl.constexpr,
    stride_ak: tl.constexpr,
    stride_bk: tl.constexpr,
    stride_bn: tl.constexpr,
    stride_c: tl.constexpr,
    batch_a: tl.constexpr,
    batch_b: tl.constexpr,
    batch_c: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    GROUP: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr,
    PROMOTE: tl.constexpr,
):
    """out = activation(A B + bias) for one tile a program; the batch is the grid's second dimension."""
    program, batch = tl.program_id(0), tl.program_id(1)
    tiles_m: tl.constexpr = (M + TILE_M - 1) // TILE_M
    tiles_n: tl.constexpr = (N + TILE_N - 1) // TILE_N
    first = program // (GROUP * tiles_n) * GROUP
    height = min(tiles_m - first, GROUP)
    tile_m = first + program % (GROUP * tiles_n) % height
    tile_n = program % (GROUP * tiles_n) // height
    rows, columns, inner = (
        tile_m * TILE_M + tl.arange(0, TILE_M),
        tile_n * TILE_N + tl.arange(0, TILE_N),
        tl.arange(0, TILE_K),
    )
    if WIDE:  # offsets beyond 2^31 elements
        rows, columns, inner, batch = rows.to(tl.int64), columns.to(tl.int64), inner.to(tl.int64), batch.to(tl.int64)
    a = a_ptr + batch * batch_a + (rows % M)[:, None] * stride_am + inner[None, :] * stride_ak
    b = b_ptr + batch * batch_b + inner[:, None] * stride_bk + (columns % N)[None, :] * stride_bn
    total = tl.zeros((TILE_M, TILE_N), dtype=ACC)
    for k in range(0, tl.cdiv(K, TILE_K)):
        if K % TILE_K == 0:
            x, y = tl.load(a), tl.load(b)
        else:
            left = K - k * TILE_K
            x, y = tl.load(a, mask=inner[None, :] < left, other=0.0), tl.load(b, mask=inner[:, None] < left, other=0.0)
        if PROMOTE:  # each K tile's sum is rounded as the tensor cores do, and added in float32
            total += tl.dot(x, y, out_dtype=ACC)
        else:
            total = tl.dot(x, y, total, input_precision=PRECISION, out_dtype=ACC)
        a += TILE_K * stride_ak
        b += TILE_K * stride_bk
    if BIAS:
        total += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(ACC)[None, :]
    if ACTIVATION == "relu":
        total = tl.maximum(total, 0.0)
    elif ACTIVATION == "silu":
        total = total / (1.0 + tl.exp(-total))
    elif ACTIVATION == "gelu":
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":  # tanh(z) = 1 - 2 / (exp(2 z) + 1)
        z = 0.7978845608028654 * (total + 0.044715 * total * total * total)
        total = 0.5 * total * (2.0 - 2.0 / (tl.exp(2.0 * z) + 1.0))
    out = out_ptr + batch * batch_c + rows[:, None] * stride_c + columns[None, :]
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=(rows < M)[:, None] & (columns < N)[None, :])
