"""Data types by name, what they may be turned into, and permissions beyond strict arithmetic. Plain data."""

from __future__ import annotations

ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float8_e4m3": 1, "float8_e5m2": 1, "int32": 4}
DTYPES = ("float32", "float16", "bfloat16", "int8", "float8_e4m3", "float8_e5m2")
FP8 = ("float8_e4m3", "float8_e5m2")
ALIASES = {
    "fp32": "float32",
    "f32": "float32",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "fp8": "float8_e4m3",
    "e4m3": "float8_e4m3",
    "e5m2": "float8_e5m2",
    "float8_e4m3fn": "float8_e4m3",
}
OUT_DTYPES = {
    "float32": ("float32", "float16", "bfloat16"),
    "float16": ("float16", "float32"),
    "bfloat16": ("bfloat16", "float32"),
    "int8": ("int32", "int8", "float16", "bfloat16", "float32"),
    "float8_e4m3": ("bfloat16", "float16", "float32", "float8_e4m3", "float8_e5m2"),
    "float8_e5m2": ("bfloat16", "float16", "float32", "float8_e4m3", "float8_e5m2"),
}
"""Output dtypes for each input dtype, the default first."""
MATH = {
    "tf32": ("float32",),
    "tf32x3": ("float32",),
    "fp16_accumulate": ("float16",),
    "fast_accumulate": FP8,
    "winograd": ("float32", "float16", "bfloat16"),
}
"""Permissions beyond strict arithmetic and the dtypes they mean something for."""
SCALES = ("none", "tensor", "row_col", "block128")
