"""One PTX instruction in a kernel of its own, over vectors of operands that include the awkward values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.helpers.emulator.references import BF16
from tests.helpers.emulator.snippets import result, run

COUNT = 128
REGISTER = {"16": ".b16", "32": ".b32", "64": ".b64"}
NUMPY = {"16": np.uint16, "32": np.uint32, "64": np.uint64}


@dataclass(frozen=True)
class Case:
    """``text`` has operands %d, %a, %b, %c; ``widths``: bits of each; ``expected`` maps input bits to d's bits."""

    text: str
    widths: str
    expected: Callable[..., Any]
    inputs: str = "bits"
    tolerance: float = 0.0

    def __str__(self) -> str:
        return self.text.split(" ")[0] if ";" not in self.text else self.text


def ptx(case: Case) -> str:
    widths = case.widths.split()
    lines = []
    for name, width in zip("abc", widths[1:]):
        lines += [
            f"ld.param.u64 %p{name}, [k_{name}];",
            f"mad.wide.u32 %q{name}, %t, {int(width) // 8}, %p{name};",
            f"ld.global.b{width} %{name}, [%q{name}];",
        ]
    params = ", ".join(f".param .u64 k_{n}" for n in ["abc"[i] for i in range(len(widths) - 1)] + ["d"])
    registers = "".join(f".reg {REGISTER[w]} %{n};\n" for n, w in zip("dabc", widths))
    body = "\n".join(lines)
    return f""".version 8.0
.target sm_90a
.address_size 64
.visible .entry k({params})
{{
.reg .b32 %t;
.reg .pred %p, %q;
.reg .b32 %x, %y;
.reg .b64 %pa, %pb, %pc, %pd, %qa, %qb, %qc, %qd;
{registers}
mov.u32 %t, %tid.x;
{body}
{case.text};
ld.param.u64 %pd, [k_d];
mad.wide.u32 %qd, %t, {int(widths[0]) // 8}, %pd;
st.global.b{widths[0]} [%qd], %d;
ret;
}}
"""


SPECIAL32 = np.array(
    [
        0,
        0x80000000,
        1,
        0x807FFFFF,
        0x00800000,
        0x3F800000,
        0xBF800000,
        0x7F7FFFFF,
        0xFF7FFFFF,
        0x7F800000,
        0xFF800000,
        0x7FC00000,
        0x3F000000,
        0x4B000001,
        0x33800000,
        0x34000000,
    ],
    np.uint32,
)
SPECIAL16 = np.array(
    [0, 0x8000, 1, 0x83FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0x3800, 0x1400], np.uint16
)


def operands(kind: str, width: str, position: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, position])
    words = kind.split()
    dtype: Any = NUMPY[width]
    bits = rng.integers(0, 2 ** int(width), COUNT, dtype=np.uint64 if width == "64" else np.int64).astype(dtype)
    if words[0] == "bits":
        bits[: 3 * 3] = [
            [0, 0, 0, 1, 1, 2 ** int(width) - 1, 2 ** (int(width) - 1), 2 ** int(width) - 1, 5][
                (i * (position + 1)) % 9
            ]
            for i in range(9)
        ]
    elif words[0] == "nonzero":
        bits[::3] >>= dtype(int(width) // 2 + 3)
        bits[bits == 0] = 7
    elif words[0] == "shift" and position:
        bits = rng.integers(0, 70, COUNT).astype(dtype)
        bits[:3] = [0, 31, 32]
    elif words[0] == "close":
        bits = (rng.integers(-2, 3, COUNT) + 2**31 * rng.integers(0, 2, COUNT)).astype(np.int64).astype(np.uint32)
    elif words[0] == "float32":
        bits = _floats(rng, words, np.float32, np.uint32, SPECIAL32, position)
    elif words[0] == "float64":
        special = (SPECIAL32.view(np.float32).astype(np.float64)).view(np.uint64)
        bits = _floats(rng, words, np.float64, np.uint64, special, position)
    elif words[0] in ("f16", "bf16"):
        scale = rng.choice([0.01, 1.0, 30.0], COUNT * 2)
        values = (rng.standard_normal(COUNT * 2) * scale).astype(np.float16 if words[0] == "f16" else BF16)
        halves = np.asarray(values).view(np.uint16).copy()
        special = SPECIAL16 if words[0] == "f16" else (SPECIAL32 >> 16).astype(np.uint16)
        special = special[~np.isin(special, (0x7E00, 0x7FC0))] if "nonan" in words else special
        halves[:40] = np.resize(np.roll(special, 3 * position), 40)
        bits = halves[:COUNT] if width == "16" else halves.view(np.uint32)[:COUNT]
    return np.ascontiguousarray(bits)


def _floats(
    rng: np.random.Generator, words: list[str], kind: Any, raw: Any, special: np.ndarray, position: int
) -> np.ndarray:
    if "tiny" in words:
        values = (rng.standard_normal(COUNT) * 10.0 ** rng.choice([-38, -19, -37.5, 0], COUNT)).astype(kind)
        return values.view(raw)
    if "small" in words:
        return rng.uniform(-6, 6, COUNT).astype(kind).view(raw)
    if "positive" in words:
        return (10.0 ** rng.uniform(-6, 6, COUNT)).astype(kind).view(raw)
    values = (rng.standard_normal(COUNT) * 2.0 ** rng.integers(-30, 30, COUNT)).astype(kind)
    bits = values.view(raw).copy()
    chosen = special[~np.isnan(special.view(kind))] if "nonan" in words else special
    bits[: 4 * len(chosen)] = np.resize(np.roll(np.repeat(chosen, 1 + position), 5 * position), 4 * len(chosen))
    bits[-8:] = rng.integers(1, 2**20, 8).astype(raw)  # subnormals
    return bits


def check(case: Case) -> None:
    widths = case.widths.split()
    inputs = [operands(case.inputs, w, i, seed=len(case.text)) for i, w in enumerate(widths[1:])]
    out = np.zeros(COUNT, NUMPY[widths[0]])
    report = run(ptx(case), "k", [*inputs, out], block=COUNT)
    got = result(report, len(inputs))
    wanted = np.array([case.expected(*map(int, row)) for row in zip(*inputs)], NUMPY[widths[0]])
    if case.tolerance:
        g, w = got.view(np.float32).astype(np.float64), wanted.view(np.float32).astype(np.float64)
        assert np.all(
            np.abs(g - w)
            <= case.tolerance * np.maximum(np.abs(w), 2**-3 if "sin" in case.text or "cos" in case.text else 0) + 1e-6
        )
        return
    bad = np.flatnonzero(got != wanted)
    if case.inputs.split()[0] in ("float32", "float64", "f16", "bf16"):
        bad = np.array([i for i in bad if not _both_nan(int(got[i]), int(wanted[i]), case)], int)
    shown = [
        (*(hex(int(x[i])) for x in inputs), "got", hex(int(got[i])), "wanted", hex(int(wanted[i]))) for i in bad[:4]
    ]
    assert not len(bad), (len(bad), shown)


def _both_nan(x: int, y: int, case: Case) -> bool:
    """NaN payloads are not compared (hardware gives a canonical one, and nothing of ours reads it)."""
    kind: Any = {"float32": np.float32, "float64": np.float64, "f16": np.float16, "bf16": BF16}[case.inputs.split()[0]]
    size = np.dtype(kind).itemsize
    raw: Any = {2: np.uint16, 4: np.uint32, 8: np.uint64}[size]
    parts = range(2) if "x2" in case.text else range(1)
    for p in parts:
        a, b = (x >> 16 * p) & (2 ** (8 * size) - 1), (y >> 16 * p) & (2 ** (8 * size) - 1)
        nan = [math.isnan(float(np.asarray(raw(v)).view(kind))) for v in (a, b)]
        if a != b and not all(nan):
            return False
    return True
