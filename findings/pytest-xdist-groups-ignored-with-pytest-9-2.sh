#!/usr/bin/env bash
# pytest-xdist with pytest 9.2: `--dist loadgroup` no longer keeps a group on one worker.
#
# Package:  pytest-xdist 3.8.0 with pytest 9.2.0, and with 9.1.1, from PyPI.
# Run:      bash pytest-xdist-groups-ignored-with-pytest-9-2.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     "loadgroup: like load, but sends tests marked with 'xdist_group' to the same worker."
# Expected: all tests of one group on one worker.
# Seen:     with pytest 9.2.0 they are spread over the workers, without a word; with 9.1.1 they
#           stay together. xdist marks a group by writing to a private attribute of the test,
#           which pytest 9.2.0 no longer reads.
# Matters:  expensive fixtures of a module, such as processes that train together, are set up once
#           a worker instead of once, and tests that must not run beside each other do.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2

cat > "$folder/test_group.py" <<'PYTHON_END'
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_number(number):
    time.sleep(0.2)
PYTHON_END

workers() {
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
        "pytest==$1" pytest-xdist==3.8.0 >&2 || exit 2
    "$folder/venv/bin/python" -m pytest -n 2 --dist loadgroup -v -p no:cacheprovider \
        "$folder/test_group.py" | grep -o '\[gw[01]\]' | sort -u | wc -l
}

before=$(workers 9.1.1)
now=$(workers 9.2.0)
echo "workers that run the eight tests of one group: $before with pytest 9.1.1, $now with 9.2.0"
if [ "$before" -eq 1 ] && [ "$now" -eq 2 ]; then
    echo "as stated"
else
    echo "NOT as stated: the behaviour has changed"
    exit 1
fi
