"""A Triton matrix product of the form that PyTorch's AutoHeuristic timed, and a worker that compiles it without a GPU.

Run by the interpreter of an environment with the logs' compiler, Triton 3.0.0; it imports nothing of this project:

    python triton_matmul.py FOLDER < requests.jsonl

A request is a line of JSON: ``name``, ``cc``, ``dtype`` (of ``DTYPES``), ``tf32``, ``m``, ``n``, ``k``, ``strides``
(of A's rows and columns, of B's rows and columns, in elements), ``config`` (block_m, block_k, block_n, stages, warps).
For each, ``FOLDER/NAME.cubin`` is written and a line appended to ``FOLDER/index.jsonl``: ``name``, ``shared`` (bytes a
block, dynamic), ``seconds`` and ``cpu`` of the compile, or ``error``, the compiler's first words. Names that the index
has are skipped.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DTYPES = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}


def kernel() -> Any:
    """The product: C (m, n) row-major = A (m, k) @ B (k, n)."""
    import triton
    import triton.language as tl

    globals()["tl"] = tl

    @triton.jit
    def matmul(
        a,
        b,
        c,
        M: tl.constexpr,
        N: tl.constexpr,
        K: tl.constexpr,
        a_row: tl.constexpr,
        a_col: tl.constexpr,
        b_row: tl.constexpr,
        b_col: tl.constexpr,
        BLOCK_M: tl.constexpr,
        BLOCK_N: tl.constexpr,
        BLOCK_K: tl.constexpr,
        GROUP: tl.constexpr,
        EVEN_K: tl.constexpr,
        TF32: tl.constexpr,
    ):
        # Tiles go down GROUP rows before they go right: neighbours share rows of A and columns of B in the L2.
        tile = tl.program_id(0)
        tiles_m = tl.cdiv(M, BLOCK_M)
        tiles_n = tl.cdiv(N, BLOCK_N)
        in_group = GROUP * tiles_n
        first = (tile // in_group) * GROUP
        rows_here = min(tiles_m - first, GROUP)
        inside = tile % in_group
        tile_m = first + inside % rows_here
        tile_n = inside // rows_here
        rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        # Indices beyond the edge wrap around: the loads need no mask, and the store leaves those results out.
        inner = tl.arange(0, BLOCK_K)
        a_at = a + ((rows % M)[:, None] * a_row + inner[None, :] * a_col)
        b_at = b + (inner[:, None] * b_row + (columns % N)[None, :] * b_col)
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for left in range(K, 0, -BLOCK_K):
            if EVEN_K:
                x = tl.load(a_at)
                y = tl.load(b_at)
            else:
                x = tl.load(a_at, mask=inner[None, :] < left, other=0.0)
                y = tl.load(b_at, mask=inner[:, None] < left, other=0.0)
            total += tl.dot(x, y, allow_tf32=TF32)
            a_at += BLOCK_K * a_col
            b_at += BLOCK_K * b_row
        down = (tile_m * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
        across = (tile_n * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
        tl.store(c + (down * N + across), total.to(c.dtype.element_ty), mask=(down < M) & (across < N))

    return matmul


def build(function: Any, request: dict[str, Any]) -> tuple[bytes, int]:
    """(cubin, dynamic shared bytes a block) of one request. Whatever the compiler raises."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler.compiler import AttrsDescriptor

    block_m, block_k, block_n, stages, warps = request["config"]
    a_row, a_col, b_row, b_col = request["strides"]
    constants = dict(
        M=request["m"],
        N=request["n"],
        K=request["k"],
        a_row=a_row,
        a_col=a_col,
        b_row=b_row,
        b_col=b_col,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        GROUP=8,
        EVEN_K=request["k"] % block_k == 0,
        TF32=request["tf32"],
    )
    pointer = DTYPES[request["dtype"]]
    names = function.arg_names
    source = ASTSource(
        function,
        signature={0: pointer, 1: pointer, 2: pointer},
        constants={names.index(name): value for name, value in constants.items()},
        attrs=AttrsDescriptor(divisible_by_16=(0, 1, 2), equal_to_1=()),
    )
    made = triton.compile(
        source, target=GPUTarget("cuda", request["cc"], 32), options={"num_warps": warps, "num_stages": stages}
    )
    return made.asm["cubin"], made.metadata.shared


def main(folder: str) -> None:
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    index = place / "index.jsonl"
    known = {json.loads(line)["name"] for line in index.read_text().splitlines()} if index.exists() else set()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        function = kernel()
        for line in sys.stdin:
            request = json.loads(line)
            if request["name"] in known:
                continue
            known.add(request["name"])
            row = {"name": request["name"]}
            started, cpu = time.perf_counter(), sum(os.times()[:4])
            try:
                cubin, row["shared"] = build(function, request)
            except Exception as error:
                row["error"] = str(error).strip()[:200] or type(error).__name__
            else:
                row["seconds"] = round(time.perf_counter() - started, 4)
                row["cpu"] = round(sum(os.times()[:4]) - cpu, 4)
                part = place / f"{request['name']}.part{os.getpid()}"
                part.write_bytes(cubin)
                part.rename(place / f"{request['name']}.cubin")
            with index.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
