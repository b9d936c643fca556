"""Knob features."""

from __future__ import annotations

import numpy as np

from gpu_tune.space.features import Encoder
from gpu_tune.space.knob import Knob


def test_features_are_logs_products_and_ratios() -> None:
    knobs = (
        Knob("m", (16, 64), ""),
        Knob("n", (1, 2, 8), ""),
        Knob("pad", (0, 4), ""),
        Knob("kind", ("a", "b", "c"), "", False),
        Knob("one", (5,), ""),
    )
    encoder = Encoder(knobs)
    assert encoder.names == ["log2 m", "log2 n", "pad", "kind", "log2 m*n", "log2 m/n"]
    rows = np.array([[1, 2, 1, 2, 0], [0, 0, 0, 0, 0]], dtype=np.uint16)
    assert encoder(rows).tolist() == [[6, 3, 4, 2, 9, 3], [4, 0, 0, 0, 4, 4]]


def test_coordinates_fill_a_unit_cube_and_keep_labels_equally_far() -> None:
    knobs = (Knob("n", (1, 2, 8), ""), Knob("kind", ("a", "b", "c"), "", False), Knob("flag", (False, True), "", False))
    c = Encoder(knobs).coordinates(np.array([[0, 0, 0], [1, 1, 1], [2, 2, 0]], dtype=np.uint16))
    assert c.min() == 0 and c.max() == 1
    assert np.allclose(c[:, 0], [0, 1 / 3, 1])
    kind = c[:, 1:4]
    assert np.allclose([((kind[i] - kind[j]) ** 2).sum() for i, j in ((0, 1), (0, 2), (1, 2))], 1.0)


def test_factors_of_two_are_a_feature_where_values_are_not_all_powers_of_two() -> None:
    encoder = Encoder((Knob("bx", (32, 48, 80, 128), ""), Knob("m", (2, 4), ""), Knob("odd", (1, 3), "")))
    assert encoder.names[-1] == "twos of bx"  # not of m (the log says it) nor of odd (nothing to say)
    rows = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]], dtype=np.uint16)
    assert encoder(rows)[:, -1].tolist() == [5, 4, 4, 7]
    assert np.allclose(encoder.coordinates(rows)[:, -1], np.array([5, 4, 4, 7]) / 7)
