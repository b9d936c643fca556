"""Wrong elements are described by what they have in common."""

from __future__ import annotations

import numpy as np

from gpu_tune.measure.check import where


def mask(shape: tuple[int, ...], *index: object) -> np.ndarray:
    made = np.zeros(shape, bool)
    made[tuple(index)] = True  # type: ignore[index]
    return made


def test_all_one_and_a_tail():
    assert where(np.ones((64, 32), bool)) == "rows all, columns all"
    assert where(mask((64, 32), 5, 7)) == "rows 5 of 64, columns 7 of 32"
    assert where(mask((64, 30), slice(None), slice(24, None))) == "rows all, columns 24-29 of 30"


def test_a_repeated_place_shows_its_modulus():
    rows, columns = np.arange(128), np.arange(256)
    wrong = (rows % 16 >= 8)[:, None] & (columns % 64 < 8)[None, :]
    assert where(wrong) == "rows 8-127 of 128 (8-15 mod 16), columns 0-199 of 256 (0-7 mod 64)"
    assert where(mask((8, 64), slice(None), slice(1, None, 2))) == "rows all, columns 1-63 of 64 (1 mod 2)"


def test_other_axes_are_rows_and_poison_is_counted():
    wrong = mask((2, 3, 4), 1, 2)
    assert where(wrong, wrong) == "rows 5 of 6, columns all, 4 of them not written"
