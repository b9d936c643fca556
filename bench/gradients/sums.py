"""``dbias`` by prediction: a family's sums in its epilogue beside two kernels that read the result again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import Device
from gpu_tune.model.performance.prediction import predict
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import render_text
from gpu_tune.templates.bound import BoundTemplate, Rendered
from gpu_tune.templates.lib import column_sums
from gpu_tune.templates.registry import registry
from gpu_tune.workload import Conv2d, Matmul, Workload

TOKENS = 4096
FAMILIES = ("matmul_simt", "matmul_mma", "matmul_wgmma", "conv2d_dgrad_mma", "conv2d_dgrad_wgmma")
WORKLOADS: tuple[Workload, ...] = (
    *(
        Matmul(TOKENS, n, k, dtype="float16", layout="nn", epilogue=f"{slope}+dbias")
        for n, k in ((4096, 1024), (4096, 4096), (1024, 4096), (3072, 768))
        for slope in ("drelu", "dgelu_tanh")
    ),
    Matmul(TOKENS, 1024, 1024, dtype="float32", layout="nn", epilogue="drelu+dbias"),
    Matmul(1024, 1024, 1024, dtype="float16", layout="nn", epilogue="dbias"),
    Matmul(32 * 56 * 56, 64, 256, dtype="float16", layout="nn", epilogue="drelu+dbias"),
    *(
        Conv2d(
            32,
            c,
            size,
            size,
            k,
            3,
            3,
            stride=stride,
            padding=1,
            dtype="float16",
            direction="dgrad",
            epilogue="drelu+dbias",
        )
        for c, size, k, stride in ((64, 56, 64, 1), (128, 28, 128, 1), (512, 7, 512, 1), (128, 56, 128, 2))
    ),
)
"""Backward products of transformer layers of 4,096 tokens and of layers of ResNet-50 at batch 32."""


@dataclass(frozen=True)
class Row:
    """Predicted seconds of a config without sums (``plain``), with them by two kernels ``behind`` it, and ``fused``."""

    workload: str
    device: str
    template: str
    plain: float
    behind: float
    fused: float
    config: str

    def __str__(self) -> str:
        times = f"{self.plain * 1e6:9.1f} us{self.behind * 1e6:9.1f} us{self.fused * 1e6:9.1f} us"
        return f"{times}{self.behind / self.fused:7.3f}  {self.template:20}{self.workload}"


def rows(device: Device) -> Iterator[Row]:
    """The default config of every family of ``FAMILIES`` that leaves sums, for each of ``WORKLOADS``."""
    for workload in WORKLOADS:
        for name in FAMILIES:
            template = registry()[name]
            if template.supported(workload, device) is not True:
                continue
            bound = BoundTemplate(template, workload, device)
            config = bound.default()
            if template.partial_sums(config, workload, device) is not None:
                yield _row(bound, config)


def _row(bound: BoundTemplate, config: Config) -> Row:
    w, device = bound.workload, bound.device
    plain = BoundTemplate(bound.template, w.unsummed(), device).render(config)
    text = render_text(column_sums.SOURCE, column_sums.names(w, device))
    plan = column_sums.with_sums(plain.plan, w, device)
    behind = replace(plain, source=f"{plain.source}\n{text}", plan=plan)
    alone, two, fused = (_seconds(one, bound) for one in (plain, behind, bound.render(config)))
    words = ", ".join(f"{knob}={value}" for knob, value in config.items())
    return Row(w.key, device.name, bound.name, alone, two, fused, words)


def _seconds(rendered: Rendered, bound: BoundTemplate) -> float:
    code = nvrtc.to_cubin(rendered.source, bound.device.arch).data
    return predict(code, rendered.plan, rendered.estimate, bound.workload, bound.device).seconds
