"""Text files that users name: UTF-8 in every locale, bounded. Dataclasses as JSON: read exactly or refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from gpu_tune import text
from gpu_tune.errors import CorruptData

SCRIPT = """
import locale, sys
from gpu_tune import text
assert locale.getpreferredencoding(False).upper() not in ("UTF-8", "UTF8"), locale.getpreferredencoding(False)
text.write(sys.argv[1], "3 \\u00b5s")
assert text.read(sys.argv[1]) == "3 \\u00b5s"
"""


def test_text_is_utf_8_whatever_the_locale(tmp_path):
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "text")], env=plain, check=True)
    assert (tmp_path / "text").read_bytes() == "3 µs".encode()


def test_an_endless_file_is_refused():
    with pytest.raises(CorruptData, match="holds more than 1000 bytes; split it"):
        text.read("/dev/zero", 1000)


@dataclass(frozen=True)
class Part:
    type: ClassVar[str] = "part"
    size: int
    ratio: float | None = None


@dataclass(frozen=True)
class Other:
    type: ClassVar[str] = "other"
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part | Other, ...]
    terms: Mapping[str, float] = field(default_factory=dict)
    corner: tuple[int, int] = (0, 0)
    anything: Any = None
    done: bool = False


WHOLE = Whole((Part(3, 0.5), Other(("a", "b")), Part(4)), {"x": 1.5}, (1, 2), {"free": [1, None]}, True)


def test_dataclasses_survive_json_and_say_what_they_are():
    body = json.loads(json.dumps(text.to_json(WHOLE)))
    assert body["parts"][1] == {"type": "other", "words": ["a", "b"]}
    assert text.from_json(Whole, body) == WHOLE
    assert text.from_json(Whole, {"parts": [{"type": "part", "size": 3, "ratio": 2}]}) == Whole((Part(3, 2.0),))


def test_numbers_of_numpy_and_strange_values_become_json():
    strange = {"a": np.float32(0.5), "b": Path("/x"), 3: (np.int64(4), None)}
    assert text.to_json(strange) == {"a": 0.5, "b": "/x", "3": [4, None]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parts": 7}, "whole.parts is 7"),
        ({"parts": [{"type": "third", "size": 3}]}, r"whole.parts\[0\] is"),
        ({"parts": [{"size": 3}]}, r"whole.parts\[0\] is"),
        ({"parts": [{"type": "part"}]}, "size"),
        ({"parts": [{"type": "part", "size": True}]}, r"whole.parts\[0\].size is True, not int"),
        ({"parts": [{"type": "part", "size": 3.0}]}, "not int"),
        ({"parts": [{"type": "part", "size": 3, "color": "red"}]}, r"whole.parts\[0\] has the unknown field 'color'"),
        ({"terms": {"x": math.nan}}, "whole.terms.x is nan, not float"),
        ({"terms": {"x": 10**400}}, "whole.terms.x is 1000"),
        ({"terms": [1]}, "whole.terms"),
        ({"corner": [1, 2, 3]}, "whole.corner"),
        ({"corner": [1, "2"]}, r"whole.corner\[1\] is '2', not int"),
        ({"done": 1}, "whole.done is 1, not bool"),
    ],
)
def test_what_is_no_such_dataclass_is_refused_by_the_name_of_its_field(change: dict[str, Any], said: str):
    with pytest.raises((TypeError, ValueError), match=said):
        text.from_json(Whole, {**text.to_json(WHOLE), **change}, name="whole")
    with pytest.raises(TypeError, match="is \\[\\], not Whole"):
        text.from_json(Whole, [])
