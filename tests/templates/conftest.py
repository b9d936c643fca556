"""The same source is compiled once, whichever test compiles it; see ``compile_once``."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _compile_once(compile_once: None) -> None:
    pass
