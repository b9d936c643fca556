"""Devices: limits and identity of GPUs, from a built-in table or from a driver's attributes. Plain data.

Figures come from NVIDIA's data sheets and the CUDA programming guide's table of compute capabilities;
``flops_per_clock`` is dense FLOP (or integer operations) per clock and SM with float32 (int32) accumulation.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InvalidInput

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One GPU's limits. ``name`` is the short name (``nvidia-h200``), ``chip`` the identity results are kept under.

    Bytes, MHz and bytes per second throughout. ``known``: False when the peak rates are inferred from the compute
    capability rather than from the table.
    """

    name: str
    product: str
    compute_capability: tuple[int, int]
    sm_count: int
    memory_bytes: int
    l2_bytes: int
    clock_mhz: int
    bandwidth: float
    flops_per_clock: Mapping[str, int] = field(hash=False)
    shared_bytes_per_block: int = 0
    shared_bytes_per_sm: int = 0
    threads_per_sm: int = 0
    blocks_per_sm: int = 0
    registers_per_sm: int = 65536
    registers_per_thread: int = 255
    threads_per_block: int = 1024
    shared_reserved_per_block: int = 1024
    known: bool = True

    def __post_init__(self) -> None:
        for name, value in limits(self.compute_capability).items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)

    @property
    def cc(self) -> int:
        """Compute capability as one number: 80, 90, 120."""
        return 10 * self.compute_capability[0] + self.compute_capability[1]

    @property
    def arch(self) -> str:
        """What NVRTC compiles for: ``sm_80``; ``sm_90a`` on 9.0 (wgmma and setmaxnreg live there alone)."""
        return "sm_90a" if self.cc == 90 else f"sm_{self.cc}"

    @property
    def chip(self) -> str:
        """Name + SM count + memory: an H100 PCIe, an H100 SXM and a MIG slice are three chips.

        Drivers show a little less than the product has, and not all the same: within 6 % it is the product's figure.
        """
        twin = KNOWN.get(self.name)
        same = twin is not None and abs(self.memory_bytes / twin.memory_bytes - 1) < 0.06
        memory = twin.memory_bytes if twin is not None and same else self.memory_bytes
        return f"{self.name}-{self.sm_count}sm-{round(memory / GIB)}gb"

    def peak_flops(self, kind: str) -> float:
        """Dense FLOP/s at the boost clock for ``fp32``, ``tf32``, ``fp16`` (and bf16), ``int8``, ``fp8`` (0: none)."""
        return self.flops_per_clock.get(kind, 0) * self.sm_count * self.clock_mhz * 1e6

    def resident_blocks(self, threads: int, registers: int, shared_bytes: int) -> int:
        """Blocks that fit on one SM (0: the block does not fit). ``shared_bytes`` is static plus dynamic."""
        warps = -(-threads // 32)
        regs_per_warp = -(-max(registers, 1) * 32 // 256) * 256
        by_registers = self.registers_per_sm // (regs_per_warp * warps)
        by_shared = self.shared_bytes_per_sm // max(1, shared_bytes + self.shared_reserved_per_block)
        fits = threads <= self.threads_per_block and shared_bytes <= self.shared_bytes_per_block
        return min(self.blocks_per_sm, self.threads_per_sm // (warps * 32), by_registers, by_shared) if fits else 0


_LIMITS = {  # shared per block (opt-in), shared per SM, threads per SM, blocks per SM
    75: (65536, 65536, 1024, 16),
    80: (166912, 167936, 2048, 32),
    86: (101376, 102400, 1536, 16),
    87: (166912, 167936, 1536, 16),
    89: (101376, 102400, 1536, 24),
    90: (232448, 233472, 2048, 32),
    100: (232448, 233472, 2048, 32),
    103: (232448, 233472, 2048, 32),
    120: (101376, 102400, 1536, 24),
    121: (101376, 102400, 1536, 24),
}
_RATES = {  # FLOP per clock and SM where the product is not in the table
    75: (128, 0, 1024, 2048, 0),
    80: (128, 1024, 2048, 4096, 0),
    86: (256, 256, 512, 2048, 0),
    87: (256, 512, 1024, 2048, 0),
    89: (256, 256, 512, 2048, 1024),
    90: (256, 2048, 4096, 8192, 8192),
    100: (256, 4096, 8192, 16384, 16384),
    103: (256, 4096, 8192, 16384, 16384),
    120: (256, 256, 512, 2048, 1024),
    121: (256, 256, 512, 2048, 1024),
}
_KINDS = ("fp32", "tf32", "fp16", "int8", "fp8")
PEAK_KIND = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "fp16",
    "int8": "int8",
    "float8_e4m3": "fp8",
    "float8_e5m2": "fp8",
}
"""The kind of peak rate (``Device.peak_flops``) at which products of a dtype run, without any permission."""


def limits(compute_capability: tuple[int, int]) -> dict[str, int]:
    """Per-block and per-SM limits of a compute capability; the nearest lower one stands in for an unknown one."""
    cc = 10 * compute_capability[0] + compute_capability[1]
    row = _LIMITS[max((c for c in _LIMITS if c <= cc), default=75)]
    return {
        **dict(zip(("shared_bytes_per_block", "shared_bytes_per_sm", "threads_per_sm", "blocks_per_sm"), row)),
        "shared_reserved_per_block": 1024 if cc >= 80 else 0,
    }


def _device(
    name: str, product: str, cc: int, sms: int, memory_gib: int, l2_mib: int, mhz: int, gb_s: int, *rates: int
) -> Device:
    return Device(
        name,
        product,
        (cc // 10, cc % 10),
        sms,
        memory_gib * GIB,
        l2_mib * 2**20,
        mhz,
        gb_s * 1e9,
        dict(zip(_KINDS, rates)),
        shared_reserved_per_block=1024 if cc >= 80 else 0,
    )


KNOWN: dict[str, Device] = {
    d.name: d
    for d in (
        _device("nvidia-t4", "Tesla T4", 75, 40, 15, 4, 1590, 320, 128, 0, 1024, 2048, 0),
        _device("nvidia-a100", "NVIDIA A100-SXM4-80GB", 80, 108, 80, 40, 1410, 2039, 128, 1024, 2048, 4096, 0),
        _device("nvidia-a10", "NVIDIA A10", 86, 72, 23, 6, 1695, 600, 256, 512, 1024, 2048, 0),
        _device("nvidia-rtx-3090", "NVIDIA GeForce RTX 3090", 86, 82, 24, 6, 1695, 936, 256, 256, 512, 2048, 0),
        _device("nvidia-rtx-4090", "NVIDIA GeForce RTX 4090", 89, 128, 24, 72, 2520, 1008, 256, 256, 512, 2048, 1024),
        _device("nvidia-l40s", "NVIDIA L40S", 89, 142, 45, 96, 2520, 864, 256, 512, 1024, 2048, 2048),
        _device("nvidia-h100", "NVIDIA H100 80GB HBM3", 90, 132, 80, 50, 1980, 3350, 256, 2048, 4096, 8192, 8192),
        _device("nvidia-h100-pcie", "NVIDIA H100 PCIe", 90, 114, 80, 50, 1755, 2039, 256, 2048, 4096, 8192, 8192),
        _device("nvidia-h200", "NVIDIA H200", 90, 132, 141, 60, 1980, 4800, 256, 2048, 4096, 8192, 8192),
        _device("nvidia-b200", "NVIDIA B200", 100, 148, 180, 126, 1965, 8000, 256, 4096, 8192, 16384, 16384),
        _device("nvidia-rtx-5090", "NVIDIA GeForce RTX 5090", 120, 170, 32, 96, 2407, 1792, 256, 256, 512, 2048, 1024),
    )
}
DEFAULT = "nvidia-h200"


def by_name(name: str) -> Device:
    """The known device ``name`` (case and separators do not matter); InvalidInput lists the known ones."""
    slug = slugify(name)
    for device in KNOWN.values():
        if {slug, f"nvidia-{slug}"} & {device.name, device.chip, slugify(device.product)}:
            return device
    close = difflib.get_close_matches(slug, [*KNOWN, *(n.removeprefix("nvidia-") for n in KNOWN)], 1)
    raise InvalidInput(
        "device",
        name,
        "is unknown" + (f" (did you mean {close[0]}?)" if close else ""),
        f"use one of {', '.join(KNOWN)}",
    )


def from_driver(product: str, attributes: Mapping[str, Any]) -> Device:
    """The device a driver describes: ``attributes`` has this class's field names for every limit that it knows.

    A product in the table lends its peak rates; SM count and memory always come from the driver (MIG slices differ).
    A clock or bandwidth that the driver does not tell is that of the compute capability's first chip in the table.
    """
    slug = slugify(product)
    cc = 10 * attributes["compute_capability"][0] + attributes["compute_capability"][1]
    twin = next((d for d in KNOWN.values() if slugify(d.product) == slug), KNOWN.get(slug.split("-gb")[0]))
    if twin is not None and twin.cc == cc:
        return replace(twin, product=product, **attributes)
    rates = _RATES[max((c for c in _RATES if c <= cc), default=75)]
    like = next((d for d in KNOWN.values() if d.cc >= cc), KNOWN[DEFAULT])
    share = min(1.0, attributes["sm_count"] / like.sm_count)
    guess = {"clock_mhz": like.clock_mhz, "bandwidth": like.bandwidth * share, **attributes}
    return Device(slug, product, flops_per_clock=dict(zip(_KINDS, rates)), known=False, **guess)


def slugify(text: str) -> str:
    """Lower case, runs of other characters as one dash."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("geforce ", "")).strip("-")
