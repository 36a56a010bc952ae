#!/usr/bin/env bash
# Hydra: choice(null,1) is refused where null,1 and choice(false,1) are sweeps.
#
# Package:  hydra-core 1.3.8 (omegaconf 2.3.1), from PyPI.
# Run:      bash hydra-choice-refuses-null.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Expected: x=choice(a,b) is the long form of x=a,b, with any values, as the documentation of
#           extended overrides has it.
# Seen:     x=null,1 goes through None and 1. x=choice(null,1) is a HydraException: NoneType is
#           incompatible with the types that choice takes. shuffle(null,1) and sort(null,1) fail
#           likewise; choice(false,1) works.
# Matters:  "off" is often null (no scheduler, no limit). Such a sweep can be written with commas
#           only, and be neither shuffled nor sorted.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    hydra-core==1.3.8 omegaconf==2.3.1 || exit 2

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON_END'
import sys

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

parser = OverridesParser.create()


def values_of(override):
    try:
        return list(parser.parse_override(override).sweep_iterator())
    except HydraException as error:
        return str(error).splitlines()[0]


found = {
    word: values_of(f"x={word}")
    for word in ("null,1", "choice(false,1)", "choice(null,1)", "shuffle(null,1)", "sort(null,1)")
}
for word, values in found.items():
    print(f"x={word:16} {values}")
works = found["null,1"] == [None, 1] and found["choice(false,1)"] == [False, 1]
refused = all(
    isinstance(values, str) and "NoneType is incompatible" in values
    for word, values in found.items()
    if "(null" in word
)
print("As stated" if works and refused else "The behaviour has changed")
sys.exit(0 if works and refused else 1)
PYTHON_END
