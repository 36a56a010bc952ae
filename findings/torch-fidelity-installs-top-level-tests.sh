#!/usr/bin/env bash
# torch-fidelity installs a package called `tests` beside itself, which hides a project's own.
#
# Package:  torch-fidelity 0.4.0, from PyPI, without its dependencies.
# Run:      bash torch-fidelity-installs-top-level-tests.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     "Python packaging user guide": what a distribution puts on the path are its own
#           import packages; the project describes none but `torch_fidelity`.
# Expected: a folder `tests` without `__init__.py` in the working directory is importable as
#           before, e.g. for `python -m tests.helper`.
# Seen:     the wheel puts `tests/__init__.py` into site-packages. A regular package wins over a
#           folder without `__init__.py`, even one that stands earlier on the path, so that after
#           the installation `python -m tests.helper` ends with "No module named tests.helper".
# Matters:  torchmetrics' image extra brings torch-fidelity; helpers that tests start as processes
#           of their own then fail in projects that never import it. `tests/__init__.py` helps.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
mkdir -p "$folder/project/tests"
echo 'print("found")' > "$folder/project/tests/helper.py"
cd "$folder/project"

outcome() {
    { "$folder/venv/bin/python" -m tests.helper 2>&1 || true; } | tail -n 1 | sed 's/.*: //'
}

before=$(outcome)
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    torch-fidelity==0.4.0 || exit 2
after=$(outcome)
echo "python -m tests.helper before the installation: $before"
echo "python -m tests.helper after it: $after"
if [ "$before" = "found" ] && [[ "$after" == *"No module named tests.helper"* ]]; then
    echo "as stated"
else
    echo "NOT as stated: the behaviour has changed"
    exit 1
fi
