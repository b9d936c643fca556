"""A winner: what is published of a tuning run, and its form as three files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .. import trial
from ..plan import LaunchPlan
from ..space.knob import Config
from ..text import Readers, check_format, from_json, refused, to_json
from ..trial import MEASURED, PREDICTED, Candidate, Measurement, Policy, Resources
from ..workload import Matmul, View, Workload, from_dict

if TYPE_CHECKING:
    from ..templates.bound import BoundTemplate, Rendered

FORMAT = 2
"""Of winners and records. Files of another format are misses: said, and left as they are."""
FORMAT_1_PREDICTED = "modelled"
"""The folder in which format 1 kept what was predicted."""


@dataclass(frozen=True)
class Compiler:
    """Which compiler made a cubin: its ``version`` with the patch release, such as 13.0.88."""

    name: str = "nvrtc"
    version: str = ""


@dataclass(frozen=True)
class Winner:
    """What is published: the fastest kernel of ours that was found and checked, with everything needed to run it.

    ``workload`` is what was asked for; ``view`` (if any) is the equivalent workload that the template really computes,
    with the names of its buffers. ``source`` is ``measured`` or ``predicted``; ``seconds`` the median time of one run
    where measured. ``code`` is the CUDA source under its header comment. ``verdict`` holds the comparison
    with the default config and the vendor library. ``trials`` and ``spent`` (seconds) say how long the search was,
    ``budget`` what it was allowed and why it ended; ``complete`` is False when it was cut short. ``prediction``: the
    static terms of a predicted time, by name. ``host_seconds``: what the host spends on a call (None: not measured).
    ``open``: the size that the kernel leaves open, and for all of which ``plan`` holds; it was tuned for that of
    ``workload`` (see :class:`~.winner_set.WinnerSet`). ValueError for another source or negative ``host_seconds``.
    """

    workload: Workload
    chip: str
    device: str
    arch: str
    template: str
    template_hash: str
    config: Config
    plan: LaunchPlan
    code: str
    cubin: bytes
    source: str
    seconds: float
    samples: tuple[float, ...] = ()
    view: View | None = None
    verdict: Mapping[str, Any] = field(default_factory=dict)
    resources: Resources | None = None
    policy: Policy = field(default_factory=Policy)
    environment: Mapping[str, Any] = field(default_factory=dict)
    compiler: Compiler = Compiler()
    options: tuple[str, ...] = ()
    finalists: tuple[Candidate, ...] = ()
    seed: int = 0
    trials: int = 0
    spent: float = 0.0
    budget: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True
    created: float = 0.0
    prediction: Mapping[str, float] = field(default_factory=dict)
    host_seconds: float | None = None
    open: tuple[str, ...] = ()

    @classmethod
    def of(cls, bound: BoundTemplate, config: Config, rendered: Rendered, cubin: bytes, **facts: Any) -> Winner:
        """A config of a bound template as a winner. Its ``code`` is the bare source; ``facts`` are the other fields."""
        device = bound.device
        config = Config({name: config[name] for name in bound.template.knob})  # as declared, however it was found
        return cls(
            workload=bound.workload,
            chip=device.chip,
            device=device.name,
            arch=device.arch,
            template=bound.name,
            template_hash=bound.hash,
            config=config,
            plan=rendered.open_plan or rendered.plan,
            open=() if bound.open is None else (bound.open.name,),
            code=rendered.source,
            cubin=cubin,
            view=bound.view,
            created=time.time(),
            **facts,
        )

    @property
    def computed(self) -> Workload:
        """The workload whose buffers the plan names: the view's, or the workload itself."""
        return self.view.workload if self.view else self.workload

    def __post_init__(self) -> None:
        if self.source not in (MEASURED, PREDICTED):
            raise ValueError(f"a winner's source is {MEASURED} or {PREDICTED}, not {self.source!r}")
        if self.host_seconds is not None and self.host_seconds < 0:
            raise ValueError(f"host_seconds {self.host_seconds} is negative")

    def to_json(self) -> dict[str, Any]:
        """The content of ``launch.json``: every field but the two files, and the hashes of those."""
        body = {f.name: to_json(getattr(self, f.name)) for f in fields(self) if f.name not in ("code", "cubin")}
        hashes = {"kernel.cu": digest(self.code.encode()), "kernel.cubin": digest(self.cubin)}
        body.update(format=FORMAT, key=self.workload.key, hashes=hashes)
        return {**body, "hash": digest(canonical(body))}

    @classmethod
    def from_files(cls, facts: bytes, code: bytes, cubin: bytes) -> Winner:
        """The winner in the three files' contents; OtherFormat for one of another format, CorruptData when anything is
        damaged or missing."""
        with refused("winner"):
            data = json.loads(facts)
            check_format(data, FORMAT)
            if data.pop("hash", None) != digest(canonical(data)):
                raise ValueError("launch.json does not match its hash")
            for name, content in (("kernel.cu", code), ("kernel.cubin", cubin)):
                if data["hashes"][name] != digest(content):
                    raise ValueError(f"{name} does not match its hash")
            body = {k: v for k, v in data.items() if k not in ("format", "key", "hashes")}
            return from_json(cls, {**body, "code": code.decode(), "cubin": cubin}, READERS, "winner")


READERS: Readers = {
    **trial.READERS,
    Workload: from_dict,
    Matmul: from_dict,
    LaunchPlan: LaunchPlan.from_json,
    Measurement: Measurement.from_json,
}
"""How JSON holds what is no dataclass, or is checked further."""


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def canonical(body: Mapping[str, Any]) -> bytes:
    """The bytes over which a JSON object's hash is taken."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
