#!/bin/sh
# Kernel Tuner: the field "objective" of a cache file is a text up to 1.3 and a list from 1.4 on; keys of configs are ambiguous.
#
# Packages   kernel_tuner 1.3.1 and 1.5.0 (Python 3.10 to 3.13), and gcc. No GPU: the kernel is a C function.
# One guesses  A cache file of one major version has one form, and the key of a config can be split at its commas.
# What happens  "objective": "time" in 1.3.1 is "objective": ["time"] in 1.5.0, and nothing in the file says which version wrote it. The key
#              of a config joins its values with commas and escapes none: "a,b" and 2 give "a,b,2", a key of three parts.
# Why it matters  Readers that look the objective up by its name refuse the newer files, or take another direction for it; readers that
#              split keys get other configs. Take the values from the entry, and accept both forms.
#
# Seen (2026-11-30, x86_64):
#   1.3.1: ["time", ["a,b,1", "a,b,2"]]
#   1.5.0: [["time"], ["a,b,1", "a,b,2"]]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/tune.py" <<'PYTHON'
import contextlib
import io
import json
import sys

import kernel_tuner

cache = sys.argv[1] + "/cache.json"
with contextlib.redirect_stdout(io.StringIO()):
    kernel_tuner.tune_kernel(
        "work",
        'extern "C" float work() { return 1.0f; }',
        1,
        [],
        {"kind": ["a,b"], "n": [1, 2]},
        lang="C",
        cache=cache,
        compiler_options=["-Dkind=0"],
    )
with open(cache) as file:
    found = json.load(file)
print(json.dumps([found["objective"], list(found["cache"])]))
PYTHON
seen=""
for version in 1.3.1 1.5.0; do
  python3 -m pip install --quiet --disable-pip-version-check --target "$folder/$version" "kernel_tuner==$version" setuptools 2>/dev/null
  mkdir "$folder/made-$version"
  told=$(PYTHONPATH="$folder/$version" python3 "$folder/tune.py" "$folder/made-$version" 2>/dev/null | tail -1)
  echo "$version: $told"
  seen="$seen|$told"
done
if [ "$seen" = '|["time", ["a,b,1", "a,b,2"]]|[["time"], ["a,b,1", "a,b,2"]]' ]; then
  echo "as described"
else
  echo "changed: this finding is closed"
  exit 1
fi
