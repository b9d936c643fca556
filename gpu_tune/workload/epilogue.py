"""The epilogue grammar: operations joined by ``+``, applied in order to the float32 (or int32) accumulator.

``scale`` and ``bias`` are per column (matmul) or output channel (conv2d), ``row_bias`` per row (matmul only),
``residual`` is an array like the output, ``clamp(lo,hi)`` has two numbers. The cast to ``out_dtype`` comes last.

Backward operations multiply by the derivative of an activation, which they take from the array ``aux`` that the forward
pass saved: ``dgelu``, ``dgelu_tanh`` and ``dsilu`` from what the activation was given, ``drelu(out)`` from its result
(both arrays like the output), ``drelu`` from one bit an element, set where the gradient passes.

An activation with ``(aux)`` behind its name, as in ``bias+gelu(aux)``, saves just that into ``aux``, a second result of
the call: ``relu(aux)`` the bits for ``drelu``, the others what they were given. ``dbias``, which comes last, sums the
result over all but its channels (columns of a matmul) into an array of that name, the gradient of a bias.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import InvalidInput, require

OPERANDS = ("scale", "bias", "row_bias", "residual")
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
DERIVATIVES = ("drelu", "drelu(out)", "dgelu", "dgelu_tanh", "dsilu")
"""Backward operations; a ``drelu`` alone reads bits."""
SAVING = tuple(f"{name}(aux)" for name in ACTIVATIONS)
"""Activations that save what their derivative needs."""
TRANSCENDENTAL = ("gelu", "gelu_tanh", "silu", "dgelu", "dgelu_tanh", "dsilu")
"""Operations that take exponentials or error functions, whose results are approximate."""
GRAMMAR = "operations joined by '+': " + ", ".join(
    (*OPERANDS, *ACTIVATIONS, "clamp(lo,hi)", *DERIVATIVES, *SAVING, "dbias")
)
_CLAMP = re.compile(r"clamp\(\s*([^,()\s]+)\s*,\s*([^,()\s]+)\s*\)")


@dataclass(frozen=True)
class Op:
    """One operation; ``lo`` and ``hi`` belong to ``clamp``. ``saves``: an activation that writes ``aux`` as well."""

    name: str
    lo: float = 0.0
    hi: float = 0.0
    saves: bool = False

    @property
    def operand(self) -> str:
        """The array that it reads, or writes as it goes, element by element; empty for none."""
        return self.name if self.name in OPERANDS else "aux" if self.saves or self.name in DERIVATIVES else ""

    @property
    def writes(self) -> str:
        """The array beside the result that it writes, a second result; empty for none."""
        return "aux" if self.saves else "dbias" if self.name == "dbias" else ""

    @property
    def bits(self) -> bool:
        """Whether its array holds one bit an element."""
        return self.name == "drelu" or (self.saves and self.name == "relu")

    def __str__(self) -> str:
        text = f"clamp({self.lo:g},{self.hi:g})" if self.name == "clamp" else self.name
        return f"{text}(aux)" if self.saves else text


def parse(text: str) -> tuple[Op, ...]:
    """The operations in ``text`` (empty: none); InvalidInput names what is wrong."""
    require(isinstance(text, str), "epilogue", text, "is not a string", f"write {GRAMMAR}")
    if not text.strip():
        return ()
    ops = tuple(_parse_one(part.strip(), text) for part in re.split(r"\+(?![^(]*\))", text))
    for name in OPERANDS:
        rule = f"uses {name} twice, but a call passes one array of that name"
        require(sum(op.name == name for op in ops) <= 1, "epilogue", text, rule, f"keep one {name}")
    saved = [str(op) for op in ops if op.operand == "aux"]
    rule = f"has {' and '.join(saved)}, but a call passes one array aux"
    require(len(saved) <= 1, "epilogue", text, rule, "keep one of them")
    early = any(op.name == "dbias" for op in ops[:-1])
    require(not early, "epilogue", text, "has dbias before its end, but it sums the result", "write dbias once, last")
    return ops


def canonical(text: str) -> str:
    """``text`` without spaces and with numbers in their shortest form, so that equal epilogues are equal strings."""
    return "+".join(str(op) for op in parse(text))


def _parse_one(part: str, text: str) -> Op:
    if part in (*OPERANDS, *ACTIVATIONS, *DERIVATIVES, "dbias"):
        return Op(part)
    if part in SAVING:
        return Op(part.removesuffix("(aux)"), saves=True)
    match = _CLAMP.fullmatch(part)
    if not match:
        raise InvalidInput("epilogue", text, f"has an unknown operation {part!r}", f"write {GRAMMAR}")
    try:
        lo, hi = float(match[1]), float(match[2])
    except ValueError:
        raise InvalidInput(
            "epilogue", text, f"has a clamp bound that is not a number: {part!r}", "write clamp(0,6)"
        ) from None
    finite = math.isfinite(lo) and math.isfinite(hi)
    require(finite and lo < hi, "epilogue", text, f"needs finite lo < hi in {part!r}", "write clamp(0,6)")
    return Op("clamp", lo, hi)
