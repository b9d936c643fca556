"""A winner: what is published of a tuning run, and its form as three files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from ..errors import CorruptData, GpuTuneError
from ..plan import LaunchPlan
from ..space.knob import Config
from ..trial import MEASURED, PREDICTED, Policy, Resources
from ..workload import Matmul, View, Workload, from_dict, to_dict

FORMAT = 1


@dataclass(frozen=True)
class Winner:
    """What is published: the fastest kernel of ours that was found and checked, with everything needed to run it.

    ``workload`` is what was asked for; ``view`` (if any) is the equivalent workload that the template really computes,
    with the names of its buffers. ``source`` is ``measured`` or ``predicted``; ``seconds`` the median time of one run,
    an estimate where predicted. ``code`` is the CUDA source under its header comment. ``verdict`` holds the comparison
    with the default config and the vendor library. ``trials`` and ``spent`` (seconds) say how long the search was,
    ``budget`` what it was allowed and why it ended; ``complete`` is False when it was cut short.
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
    nvrtc: str = ""
    options: tuple[str, ...] = ()
    finalists: tuple[Mapping[str, Any], ...] = ()
    seed: int = 0
    trials: int = 0
    spent: float = 0.0
    budget: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True
    created: float = 0.0

    @property
    def computed(self) -> Workload:
        """The workload whose buffers the plan names: the view's, or the workload itself."""
        return self.view.workload if self.view else self.workload

    def to_json(self) -> dict[str, Any]:
        """The content of ``launch.json``: every field but the two files, and the hashes of those."""
        body = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("code", "cubin")}
        body.update(
            format=FORMAT,
            key=self.workload.key,
            workload=to_dict(self.workload),
            config=dict(self.config),
            plan=self.plan.to_json(),
            policy=asdict(self.policy),
            resources=asdict(self.resources) if self.resources else None,
            view={"workload": to_dict(self.view.workload), "buffers": dict(self.view.buffers)} if self.view else None,
            hashes={"kernel.cu": digest(self.code.encode()), "kernel.cubin": digest(self.cubin)},
        )
        body = json.loads(json.dumps(body, default=_plain))
        body["hash"] = digest(_canonical(body))
        return body

    @classmethod
    def from_files(cls, facts: bytes, code: bytes, cubin: bytes) -> Winner:
        """The winner in the three files' contents; CorruptData when anything is damaged or missing."""
        try:
            data = json.loads(facts)
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                raise ValueError(f"launch.json is not of format {FORMAT}")
            told = data.pop("hash", None)
            if told != digest(_canonical(data)):
                raise ValueError("launch.json does not match its hash")
            for name, content in (("kernel.cu", code), ("kernel.cubin", cubin)):
                if data["hashes"][name] != digest(content):
                    raise ValueError(f"{name} does not match its hash")
            return cls._from_json(data, code.decode(), cubin)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, GpuTuneError) as error:
            raise CorruptData(f"{type(error).__name__}: {error}") from error

    @classmethod
    def _from_json(cls, data: Mapping[str, Any], code: str, cubin: bytes) -> Winner:
        body: dict[str, Any] = {f.name: data[f.name] for f in fields(cls) if f.name not in ("code", "cubin")}
        for name, kind in (
            ("chip", str),
            ("device", str),
            ("arch", str),
            ("template", str),
            ("template_hash", str),
            ("source", str),
            ("nvrtc", str),
            ("verdict", dict),
            ("budget", dict),
            ("environment", dict),
            ("complete", bool),
            ("seed", int),
            ("trials", int),
        ):
            if not isinstance(body[name], kind):
                raise TypeError(f"{name} is not {kind.__name__}")
        if body["source"] not in (MEASURED, PREDICTED):
            raise ValueError(f"source {body['source']!r} is unknown")
        for finalist in data["finalists"]:
            if not isinstance(finalist["template"], str):
                raise TypeError("a finalist's template is not text")
            Config(finalist["config"])
        notes = {"notes": tuple(data["resources"]["notes"])} if data["resources"] else {}
        view = data["view"]
        body.update(
            workload=from_dict(data["workload"]),
            config=Config(data["config"]),
            plan=LaunchPlan.from_json(data["plan"]),
            policy=Policy(**data["policy"]),
            seconds=float(data["seconds"]),
            samples=tuple(map(float, data["samples"])),
            resources=Resources(**{**data["resources"], **notes}) if data["resources"] else None,
            view=View(cast(Matmul, from_dict(view["workload"])), dict(view["buffers"])) if view else None,
            options=tuple(data["options"]),
            finalists=tuple(data["finalists"]),
            spent=float(data["spent"]),
            created=float(data["created"]),
        )
        return cls(**body, code=code, cubin=cubin)


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    return dict(value) if isinstance(value, Mapping) else str(value)
