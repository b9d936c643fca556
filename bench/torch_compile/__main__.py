"""``torch.compile(fullgraph=True)`` on three replaced models over ten batch sizes: graphs, recompiles, results.

    python -m bench.torch_compile                        # needs PyTorch; minutes, for ResNet-50 has 54 layers
    python -m bench.torch_compile --backend inductor --models transformer   # needs a C++ compiler, too

The models are a transformer block, ResNet-50 and a U-Net with few channels and small images: graphs depend on neither.
``fullgraph`` raises where a graph breaks. The batch is dynamic as PyTorch makes it by default: a size of 1 has a graph
of its own, the second size begins the general one. Wanted are at most 2 recompiles, every replaced layer as an operator
of ours in each graph, and the results of the model that is not compiled. PyTorch's own layers stand beside them.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
LIMIT = 2
"""Recompiles over all sizes at most."""


MODELS: dict[str, tuple[str, dict[str, int], tuple[int, ...]]] = {
    "transformer": ("TransformerBlock", {"width": 32, "heads": 4}, (8, 32)),
    "ResNet-50": ("ResNet", {"width": 4, "classes": 10}, (3, 32, 32)),
    "U-Net": ("UNet", {"channels": 3, "width": 4, "depth": 4}, (3, 16, 16)),
}
"""By name: the class, its arguments, and the shape of an input but for the batch."""


def model(name: str) -> tuple[Callable[[], Any], tuple[int, ...]]:
    """How a model is made, and the shape of an input but for the batch."""
    from tests.helpers import torch_models

    kind, sizes, shape = MODELS[name]
    return functools.partial(getattr(torch_models, kind), **sizes), shape


@dataclass(frozen=True)
class Compiled:
    """What compiling one model took. ``operators``: calls of ours in each graph; ``layers``: those that were replaced;
    ``error``: the largest difference to the model that is not compiled, beside its largest result."""

    graphs: int
    operators: tuple[int, ...]
    layers: int
    error: float
    seconds: float

    @property
    def good(self) -> bool:
        whole = self.layers == 0 or set(self.operators) == {self.layers}
        return self.graphs <= LIMIT + 1 and whole and self.error < 1e-3


def compiled(make: Callable[[], Any], shape: tuple[int, ...], sizes: tuple[int, ...], backend: str, ours: bool) -> Any:
    """Run a model of ours, or PyTorch's own, compiled, at all ``sizes``."""
    import torch

    import gpu_tune.torch as gtt

    torch._dynamo.reset()
    torch.manual_seed(0)
    model = make().eval()
    layers = len(gtt.replace(model).replaced) if ours else 0
    inner = torch._dynamo.lookup_backend(backend)
    operators: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        operators.append(sum("gpu_tune" in str(node.target) for node in graph.graph.nodes))
        return inner(graph, inputs)

    run, error, start = torch.compile(model, fullgraph=True, backend=counting), 0.0, time.perf_counter()
    with torch.no_grad():
        for size in sizes:
            x = torch.randn(size, *shape)
            y, expected = run(x), model(x)
            error = max(error, float((y - expected).abs().max() / expected.abs().max()))
    return Compiled(len(operators), tuple(operators), layers, error, time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="aot_eager", help="of torch.compile (default: aot_eager)")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found to FILE")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, Compiled]] = {}
    print(f"{options.backend}, batch sizes {SIZES}")
    print(f"{'model':14} {'layers':>6} {'graphs':>6} {'recompiles':>10} {'error':>9} {'seconds':>8}   PyTorch's graphs")
    for name in options.models:
        make, shape = model(name)
        ours, theirs = (compiled(make, shape, SIZES, options.backend, mine) for mine in (True, False))
        found[name] = {"ours": ours, "pytorch": theirs}
        verdict = "met" if ours.good else f"MISSED (wanted: {LIMIT} recompiles at most, and every layer)"
        row = f"{name:14} {ours.layers:6} {ours.graphs:6} {ours.graphs - 1:10} {ours.error:9.1e} {ours.seconds:8.1f}"
        print(f"{row}   {theirs.graphs}  {verdict}", flush=True)
    if options.json:
        import torch

        rows = {name: {who: asdict(facts) for who, facts in row.items()} for name, row in found.items()}
        facts = {"torch": torch.__version__, "python": sys.version.split()[0], "backend": options.backend}
        options.json.write_text(json.dumps({**facts, "sizes": SIZES, "models": rows}, indent=1) + "\n")
    raise SystemExit(not all(row["ours"].good for row in found.values()))


if __name__ == "__main__":
    main()
