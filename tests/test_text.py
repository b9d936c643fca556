"""Text files that users name: UTF-8 in every locale, bounded."""

import os
import subprocess
import sys

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
