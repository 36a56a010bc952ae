#!/usr/bin/env bash
# wandb-workspaces puts values of filters into Python text without escaping them, and parses that.
#
# Package:  wandb-workspaces 0.4.13 and wandb 0.31.0, from PyPI.
# Run:      bash wandb-workspaces-filter-values-unescaped.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     a filter compares a run's config with a value: Config("key") == "value".
# Expected: each text that a run's config can hold is looked for as it is.
# Seen:     building the report's model fails with a SyntaxError for a text with an apostrophe, as
#           in "Wong's pool"; a text with a backslash, as in a Windows path, is looked for with
#           its escapes evaluated: D:\new becomes D:, a line break and "ew", without a word.
# Matters:  reports as code whose run sets are filtered by names of data sets, notes or paths show
#           no runs, or end in a traceback that names no value. Identities of runs are safe.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    wandb-workspaces==0.4.13 wandb==0.31.0 || exit 2
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys
import warnings

warnings.simplefilter("ignore")
import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr


def sent(value):
    """What the report would ask W&B's server for."""
    runs = wr.Runset(filters=expr.And(expr.Config("dataset") == value))
    try:
        model = runs._to_model()
    except SyntaxError:
        return "SyntaxError"
    return model.filters["filters"][0]["value"]


found = {value: sent(value) for value in ("digits", "Wong's pool", r"D:\new")}
for value, seen in found.items():
    print(f"{value!r} is looked for as: {seen!r}")
if list(found.values()) == ["digits", "SyntaxError", "D:\new"]:
    print("as stated")
else:
    print("NOT as stated: the behaviour has changed")
    sys.exit(1)
PY
