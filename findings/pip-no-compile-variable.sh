#!/bin/sh
# pip: PIP_NO_COMPILE=1 compiles.
#
# Packages   pip 23.0.1, 24.2 and 25.3; iniconfig 2.1.0 as what is installed.
# One guesses  The variable of an option is PIP_ and its name, so PIP_NO_COMPILE=1 is --no-compile.
# What happens  The value is that of what both --compile and --no-compile set, so PIP_NO_COMPILE=1 is --compile, which is
#              the default, and PIP_NO_COMPILE=0 is --no-compile. PIP_COMPILE=0 says the same and reads as it is meant.
# Why it matters  A build that means to save the compilation of every file of every package saves nothing, and nothing is
#              said. (Installing what this project's tests need takes half as much CPU time without it.)
#
# Seen (2026-11-30, x86_64, Python 3.11), the same of each of the three:
#   pip 25.3, NOTHING=1: 4 files of bytecode
#   pip 25.3, PIP_NO_COMPILE=1: 4 files of bytecode
#   pip 25.3, PIP_NO_COMPILE=0: 0 files of bytecode
#   pip 25.3, PIP_COMPILE=0: 0 files of bytecode
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

compiled() { # compiled PIP VARIABLE: how many files of bytecode an installation leaves
  rm -rf "$folder/out"
  env "$2" PYTHONPATH="$folder/$1" python3 -m pip install --quiet --disable-pip-version-check --no-deps \
    --target "$folder/out" iniconfig==2.1.0 2>/dev/null
  find "$folder/out" -name '*.pyc' | wc -l
}

changed=0
for release in 23.0.1 24.2 25.3; do
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/$release" "pip==$release" 2>/dev/null
  for variable in NOTHING=1 PIP_NO_COMPILE=1 PIP_NO_COMPILE=0 PIP_COMPILE=0; do
    found=$(compiled "$release" "$variable")
    echo "pip $release, $variable: $found files of bytecode"
    case $variable in
      *=1) [ "$found" -gt 0 ] || changed=1 ;;
      *) [ "$found" -eq 0 ] || changed=1 ;;
    esac
  done
done
[ "$changed" = 0 ] && echo "as described" || echo "changed: this finding is closed"
exit "$changed"
