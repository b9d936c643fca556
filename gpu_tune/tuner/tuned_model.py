"""What tuning a model gave: per layer ours, the vendor's and which runs; what is left out; the forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..kernel.emit import figure
from ..kernel.kernel import TunedKernel
from ..trial import MEASURED, PREDICTED
from ..workload import Workload, to_dict

if TYPE_CHECKING:
    from ..torch.extraction import Extraction, Forward, Layer

OURS, VENDOR, UNDECIDED = "ours", "vendor", "undecided"
"""What runs a layer. ``undecided``: nothing was measured, so that the dispatchers run the vendor's."""


@dataclass(frozen=True)
class LayerResult:
    """One workload of a model. Seconds are of one call, medians; None where there is none, or where it is predicted for
    a kind of kernel on which the model was not judged (``figure`` says so).

    ``weight``: seconds, or what stands for them, of its calls in one pass, by which shares of time are told."""

    layer: Layer
    kernel: TunedKernel | None
    reason: str
    weight: float | None

    @property
    def seconds(self) -> float | None:
        """Ours."""
        w = self.kernel.winner if self.kernel else None
        told = w is not None and w.seconds > 0 and (w.source != PREDICTED or bool(w.environment.get("judged")))
        return w.seconds if w is not None and told else None

    @property
    def figure(self) -> str:
        """Ours, as it may be told."""
        if self.kernel is None:
            return f"not tuned: {self.reason}"
        return figure(self.kernel.seconds, self.kernel.winner.source, self.kernel.winner.environment)

    @property
    def vendor(self) -> tuple[str, float] | None:
        """The fastest vendor kernel and its seconds, where one was timed."""
        if self.kernel is None:
            return None
        verdict = self.kernel.verdict
        times = {f["name"]: f["seconds"] for f in verdict.get("finalists", ()) if f.get("seconds")}
        name = verdict.get("vendor") or ""
        return (str(name), float(times[name])) if name in times else None

    @property
    def chosen(self) -> str:
        """Who runs it where a dispatcher of ours is called."""
        if self.kernel is None:
            return VENDOR
        if not self.kernel.measured:
            return UNDECIDED
        return OURS if self.kernel.verdict.get("ours") == "faster" else VENDOR

    @property
    def speedup(self) -> float | None:
        """Ours against the template's default config; None where seconds are not told, from which it follows."""
        default = self.kernel.verdict.get("default") if self.kernel and self.seconds is not None else None
        return float(default["speedup"]) if default else None


@dataclass(frozen=True)
class TunedModel:
    """What :func:`gpu_tune.tune_model` returns.

    ``extraction``: the layers found and what is left out, by FLOPs. ``results``: one a workload, the largest part of
    the pass first. ``source``: ``measured`` or ``predicted``. ``forward``: the pass before and after, on a GPU alone
    (``no_forward`` says why not). ``complete``: False when it was interrupted; the same call goes on.
    ``slices``: (workload, trials) in the order in which the budget was given away.
    """

    extraction: Extraction
    results: tuple[LayerResult, ...]
    chip: str
    device: str
    source: str
    complete: bool
    seconds: float
    trials: int
    ended: str
    slices: tuple[tuple[Workload, int], ...] = ()
    forward: Forward | None = None
    no_forward: str = ""
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def kernels(self) -> dict[Workload, TunedKernel]:
        """Our kernels, by workload."""
        return {r.layer.workload: r.kernel for r in self.results if r.kernel is not None}

    def share(self, result: LayerResult) -> float | None:
        """The part of the layers' time in a pass that one takes: with what is chosen where measured, else as predicted
        for ours (an estimate)."""
        whole = sum(r.weight for r in self.results if r.weight is not None)
        return None if result.weight is None or not whole else result.weight / whole

    def totals(self) -> dict[str, float] | None:
        """Seconds of all layers in one pass: ``ours``, ``vendor``, ``chosen``; None unless each was measured both
        ways."""
        rows = [(r.layer.count, r.seconds, r.vendor, r.chosen) for r in self.results]
        if self.source != MEASURED or not rows or any(ours is None or vendor is None for _, ours, vendor, _ in rows):
            return None
        pairs = [(n, ours or 0.0, vendor[1] if vendor else 0.0, chosen) for n, ours, vendor, chosen in rows]
        return {
            OURS: sum(n * ours for n, ours, _, _ in pairs),
            VENDOR: sum(n * vendor for n, _, vendor, _ in pairs),
            "chosen": sum(n * (ours if chosen == OURS else vendor) for n, ours, vendor, chosen in pairs),
        }

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        extraction = self.extraction
        layers = [
            {
                "workload": r.layer.workload.key,
                "fields": to_dict(r.layer.workload),
                "count": r.layer.count,
                "names": list(r.layer.names),
                "weights": r.layer.weights,
                "copies": list(r.layer.copies),
                "by_modules": r.layer.by_modules,
                "flops": r.layer.flops,
                "flops_share": extraction.share(r.layer.flops),
                "time_share": self.share(r),
                "seconds": r.seconds,
                "figure": r.figure,
                "vendor": r.vendor[0] if r.vendor else None,
                "vendor_seconds": r.vendor[1] if r.vendor else None,
                "chosen": r.chosen,
                "speedup": r.speedup,
                "template": r.kernel.template if r.kernel else None,
                "config": dict(r.kernel.config) if r.kernel else None,
                "trials": r.kernel.winner.trials if r.kernel else 0,
                "path": str(r.kernel.path) if r.kernel and r.kernel.path else None,
                "reason": r.reason,
            }
            for r in self.results
        ]
        left_out = [
            {
                "operation": p.operation,
                "count": p.count,
                "names": list(p.names),
                "flops": p.flops,
                "flops_share": extraction.share(p.flops),
                "reason": p.reason,
            }
            for p in extraction.left_out
        ]
        return {
            "model": extraction.model,
            "chip": self.chip,
            "device": self.device,
            "source": self.source,
            "flops": extraction.flops,
            "flops_found": extraction.found,
            "layers": layers,
            "left_out": left_out,
            "notes": list(extraction.notes),
            "totals": self.totals(),
            "forward": vars(self.forward) if self.forward else None,
            "no_forward": self.no_forward,
            "complete": self.complete,
            "seconds": self.seconds,
            "trials": self.trials,
            "ended": self.ended,
            "slices": [[w.key, n] for w, n in self.slices],
        }

    def __str__(self) -> str:
        from .model_text import told

        return told(self)

    def export(self, folder: Path | str, *, cpp: bool = False) -> Path:
        """One folder with the winners of all layers and a manifest, which another machine opens by
        :func:`gpu_tune.open_export`; with ``cpp`` a CMake package, too. InvalidInput for a folder that holds other
        things, NotTuned where there is no kernel."""
        from ..kernel.export_folder import publish

        facts = {k: v for k, v in self.to_json().items() if k not in ("slices", "forward", "no_forward")}
        winners = [kernel.winner for kernel in self.kernels.values()]
        made = publish(Path(folder), winners, facts)
        if cpp:
            from ..kernel.export_cmake import write

            write(made)
        return made


def weight_of(layer: Layer, kernel: TunedKernel | None) -> float | None:
    """Seconds of a layer's calls in one pass, or what stands for them (see :class:`LayerResult`)."""
    if kernel is None or kernel.seconds <= 0:
        return None
    seconds = kernel.seconds
    if kernel.measured and kernel.verdict.get("ours") != "faster":
        name = kernel.verdict.get("vendor")
        times = [f["seconds"] for f in kernel.verdict.get("finalists", ()) if f["name"] == name and f.get("seconds")]
        seconds = min(times, default=seconds)
    return layer.count * seconds
