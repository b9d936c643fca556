"""Tensor maps: NVIDIA's rules for cuTensorMapEncodeTiled and ...Im2col, and the form that the emulator takes."""

from __future__ import annotations

from ..plan import L2_PROMOTIONS, TENSOR_MAP_DTYPES, TensorMapArg

Rules = list[tuple[object, str]]
"""(whether it is broken, what is said then)."""


def broken_rules(m: TensorMapArg, base: int, available: int) -> list[str]:
    """Every rule of the CUDA driver API that the map breaks, as sentences.

    ``base`` is the device address of the buffer's first element plus the offset; ``available`` the bytes from there on.
    """
    rules = (_tiled(m) if m.im2col is None else _im2col(m)) + _common(m, base, available)
    return [sentence for broken, sentence in rules if broken]


def _common(m: TensorMapArg, base: int, available: int) -> Rules:
    size, rank = TENSOR_MAP_DTYPES[m.dtype].itemsize, len(m.shape)
    rules: Rules = [(base % 16, f"the global address is {base % 16} bytes off a multiple of 16")]
    if not 1 <= rank <= 5:
        return [*rules, (True, f"rank {rank} is not in 1..5")]
    if len(m.strides) != rank - 1:
        return [*rules, (True, f"{len(m.strides)} strides are given for rank {rank}; it takes {rank - 1}")]
    steps, floats = m.element_strides, ("float16", "float32", "float64", "bfloat16", "tfloat32")
    last = (m.shape[0] - 1) * size + sum((d - 1) * s for d, s in zip(m.shape[1:], m.strides)) + size
    rules += [(any(not 1 <= d <= 2**32 for d in m.shape), f"shape {m.shape} has a dimension outside 1..2^32")]
    rules += [
        (
            stride % 16 or not (0 if extent == 1 else 1) <= stride < 2**40,
            f"stride {stride} of dimension {k + 1} is not a multiple of 16 below 2^40",
        )
        for k, (stride, extent) in enumerate(zip(m.strides, m.shape[1:]))
    ]
    return [
        *rules,
        (
            steps and (len(steps) != rank or any(not 1 <= e <= 8 for e in steps)),
            f"element strides {steps} are not {rank} numbers in 1..8",
        ),
        (m.l2_promotion not in L2_PROMOTIONS, f"L2 promotion {m.l2_promotion} is not 0, 64, 128 or 256"),
        (m.oob_nan and m.dtype not in floats, f"NaN fill needs a floating-point type, not {m.dtype}"),
        (last > available, f"the tensor spans {last} bytes of a buffer that has {available}"),
    ]


def _inner_box(size: int, swizzle: int) -> Rules:
    inner = f"the box's inner dimension has {size} bytes"
    return [
        (size % 16, f"{inner}, which is no multiple of 16"),
        (swizzle and size > swizzle, f"{inner}, more than the {swizzle}-byte swizzle"),
    ]


def _tiled(m: TensorMapArg) -> Rules:
    if len(m.box) != len(m.shape):
        return [(True, f"box {m.box} has not the rank of shape {m.shape}")]
    size, step = TENSOR_MAP_DTYPES[m.dtype].itemsize, max(m.element_strides[0] if m.element_strides else 1, 1)
    outside = any(not 1 <= b <= 256 for b in m.box)
    return [
        (outside, f"box {m.box} has a dimension outside 1..256"),
        *_inner_box(-(-m.box[0] // step) * size, m.swizzle),
    ]


def _im2col(m: TensorMapArg) -> Rules:
    assert m.im2col is not None
    rank, im = len(m.shape), m.im2col
    if not 3 <= rank <= 5:
        return [(True, f"an im2col map has rank 3, 4 or 5, not {rank}")]
    low, high = {3: (-32768, 32767), 4: (-128, 127), 5: (-16, 15)}[rank]
    return [
        *(
            (
                len(corner) != rank - 2 or any(not low <= c <= high for c in corner),
                f"{name} corner {corner} is not {rank - 2} numbers in {low}..{high}",
            )
            for name, corner in (("lower", im.lower_corner), ("upper", im.upper_corner))
        ),
        (not 1 <= im.channels_per_pixel <= 256, f"channels per pixel {im.channels_per_pixel} is not in 1..256"),
        (not 1 <= im.pixels_per_column <= 1024, f"pixels per column {im.pixels_per_column} is not in 1..1024"),
        *_inner_box(im.channels_per_pixel * TENSOR_MAP_DTYPES[m.dtype].itemsize, m.swizzle),
    ]


def pack(m: TensorMapArg, buffer: int, base: int, type_number: int) -> list[int]:
    """The numbers that the library's emu_tensor_map takes."""
    rank = len(m.shape)

    def padded(values: tuple[int, ...], fill: int, count: int = 5) -> list[int]:
        return [*values, *[fill] * (count - len(values))]

    im = m.im2col
    return [
        buffer,
        rank,
        TENSOR_MAP_DTYPES[m.dtype].itemsize,
        m.swizzle,
        type_number,
        base,
        *padded(m.shape, 1),
        *padded(m.strides, 0),
        *padded(m.box if im is None else (), 1),
        *padded(m.element_strides or (1,) * rank, 1),
        int(im is not None),
        int(m.oob_nan),
        *padded(im.lower_corner if im else (), 0, 3),
        *padded(im.upper_corner if im else (), 0, 3),
        im.channels_per_pixel if im else 0,
        im.pixels_per_column if im else 0,
    ]
