"""What an operator of ``gpu_tune.torch`` costs the host beside an empty one of the same kind and signature, in one run.

    python -m bench.torch_calls                     # half a minute; needs PyTorch, NVRTC, g++ and cuda.h, and no GPU
    python -m bench.torch_calls --json torch-calls.json

Our kernel serves the calls, on a driver that launches nothing: what is left of a kernel is what its launch costs the
caller. An empty operator has the same schema, registration and autograd key and, where a gradient is asked for, a
function that is given the same tensors and saves one factor; its body makes the result and returns, also at autograd's
key, as ours does: not even a second pass through PyTorch's dispatcher is in it. All are timed in turns, in CPU time,
and the quickest batch of each counts, as other work on a machine only adds; the difference is wanted at 3 us at most.
An empty operator by ``torch.library.custom_op`` stands beside them, for why this form was chosen and for how fast the
machine is.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

from tests.helpers import virtual_gpu

CALLS, LIMIT = 200, 3.0
"""Calls of a batch; microseconds that an operator may cost more than an empty one."""
M, N, K = 256, 512, 1024
IMAGE, FILTERS = (8, 64, 28, 28), (128, 64, 3, 3)


def empty_like(operator: Any, at: tuple[int, ...], result: Callable[[], Any]) -> tuple[Any, Any]:
    """Empty operators with the schema of ``operator``: registered as it is, and by ``custom_op``.

    ``at`` are the places of the tensors that calls give, which may ask for gradients.
    """
    import torch

    name, schema = operator._schema.name.split("::")[1], str(operator._schema).partition("(")
    space = f"empty_{name}_{len(at)}"
    library = torch.library.Library(space, "DEF")
    library.define(f"{name}({schema[2]}")
    empty = getattr(getattr(torch.ops, space), name).default
    enabled, required, given = torch.is_grad_enabled, torch._C._any_requires_grad, itemgetter(*at)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            made = result()
            ctx.save_for_backward(args[0])
            return made

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            raise NotImplementedError

    def body(*args: Any) -> Any:
        return Function.apply(*given(args)) if enabled() and required(*args) else result()

    library.impl(name, body, "CPU")
    library.impl(name, body, "Autograd")
    empty.kept = (library, Function)
    custom: Any = torch.library.custom_op(
        f"{space}_custom::{name}", lambda *args: result(), mutates_args=(), schema=f"({schema[2]}"
    )
    custom.register_autograd(lambda ctx, *grads: None)
    return empty, custom


def prepare() -> dict[str, tuple[Callable[[], Any], ...]]:
    """By what is called: the operator, the empty one of its form, the empty ``custom_op``."""
    import torch

    import gpu_tune as gt
    import gpu_tune.torch as gtt
    from gpu_tune import dispatch
    from gpu_tune.cuda import driver
    from gpu_tune.torch import ops
    from tests.helpers import torch_on_virtual_gpu

    driver.use_context(0)
    memory = torch.empty(1 << 20, dtype=torch.float16)

    def result(shape: tuple[int, ...], strides: tuple[int, ...], *, dtype: Any, device: Any) -> Any:
        """Always the same memory, as PyTorch's allocator gives it on a GPU; a view costs what an allocation costs."""
        return memory.as_strided(shape, strides)

    torch_on_virtual_gpu.take(setattr, result)
    serve: Any = lambda workload, gpu, library: gt.load(workload)  # noqa: E731
    setattr(dispatch, "server", serve)  # noqa: B010
    half = torch.float16
    a, w, bias = torch.randn(M, K, dtype=half), torch.randn(N, K, dtype=half), torch.randn(N, dtype=half)
    last = torch.channels_last
    x, f = (torch.randn(s, dtype=half).to(memory_format=last) for s in (IMAGE, FILTERS))
    plain = (a, w, *[None] * 5, "nt", 1.0, 0.0, "", None, "")
    biased = (a, w, None, bias, *[None] * 3, "nt", 1.0, 0.0, "bias+relu", None, "")
    image = (x, f, *[None] * 3, [1, 1], [1, 1, 1, 1], [1, 1], 1, "", None, "")
    out = (*IMAGE[:1], FILTERS[0], *IMAGE[2:])
    laid, cpu = torch.empty(out, memory_format=last).stride(), torch.device("cpu")
    made = lambda: result((M, N), (N, 1), dtype=half, device=cpu)  # noqa: E731
    matmul, fused = empty_like(ops.matmul, (0, 1), made), empty_like(ops.matmul, (0, 1, 3), made)
    conv2d = empty_like(ops.conv2d, (0, 1), lambda: result(out, laid, dtype=half, device=cpu))
    found: dict[str, tuple[Callable[[], Any], ...]] = {}
    for name, ours, others, args in (
        ("matmul", ops.matmul, matmul, plain),
        ("matmul, bias+relu", ops.matmul, fused, biased),
        ("conv2d, channels-last", ops.conv2d, conv2d, image),
    ):
        required = (args[0], args[1].detach().requires_grad_(), *args[2:])
        for kind, given in (("", args), (", weight's gradient", required)):
            found[name + kind] = tuple(functools.partial(op, *given) for op in (ours, *others))
    found["gtt.linear(a, w)"] = (lambda: gtt.linear(a, w), found["matmul"][1], found["matmul"][2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the kernels are not tuned
        for calls in found.values():
            for call in calls:
                call()
    return found


def measure(found: dict[str, tuple[Callable[[], Any], ...]], rounds: int) -> dict[str, list[float]]:
    """Least microseconds of CPU a call, by what is called; the kinds are timed in turns."""
    samples: dict[str, list[list[float]]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, calls in found.items():
            taken = []
            for call in calls:
                start = time.process_time_ns()
                for _ in range(CALLS):
                    call()
                taken.append((time.process_time_ns() - start) / CALLS / 1e3)
            samples[name].append(taken)
    return {name: [min(column) for column in zip(*taken)] for name, taken in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help=f"rounds of {CALLS} calls of a kind (default: 40)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found to FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = virtual_gpu.build(Path(os.environ.get("GPU_TUNE_TEST_SHARED", folder)))
        if library is None:
            raise SystemExit("bench.torch_calls needs g++ and cuda.h: pip install nvidia-cuda-runtime")
        os.environ.update(GPU_TUNE_LIBCUDA=str(library), GPU_TUNE_CACHE_DIR=f"{folder}/home")
        Path(folder, "home").mkdir(mode=0o700)
        import torch

        torch.set_num_threads(1)  # CPU time is this thread's alone
        taken = measure(prepare(), options.rounds)
    failed = 0
    print(f"{'us of CPU a call':38} {'ours':>7} {'empty':>7} {'more':>6}   empty custom_op")
    for name, (ours, empty, custom) in taken.items():
        judged = not name.startswith("gtt.")
        missed = judged and ours - empty > LIMIT
        failed += missed
        verdict = "" if not judged else f"  MISSED (wanted: {LIMIT:g} at most)" if missed else "  met"
        print(f"{name:38} {ours:7.2f} {empty:7.2f} {ours - empty:6.2f}   {custom:7.2f}{verdict}")
    if options.json:
        facts = {"torch": torch.__version__, "python": sys.version.split()[0], "rounds": options.rounds}
        rows = {name: dict(zip(("ours", "empty", "empty custom_op"), row)) for name, row in taken.items()}
        options.json.write_text(json.dumps({**facts, "limit": LIMIT, "microseconds": rows}, indent=1) + "\n")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
