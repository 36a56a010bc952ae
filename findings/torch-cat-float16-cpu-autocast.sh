#!/usr/bin/env bash
# PyTorch: under bfloat16 autocast on the CPU, float16 tensors cannot be concatenated.
#
# Package:  torch 2.14.1, from PyPI; on the CPU.
# Run:      bash torch-cat-float16-cpu-autocast.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     "Automatic Mixed Precision package", CPU ops that promote to the widest input type:
#           cat, stack and index_copy work in the widest type among their inputs.
# Expected: inputs that are all float16 have one type, which is the widest: float16 comes out, as
#           it does outside autocast, under float16 autocast, and from `+`, `where` and indexing.
# Seen:     cat, stack, vstack, hstack and index_copy of float16 tensors alone raise "Unexpected
#           floating ScalarType in at::autocast::prioritize" under bfloat16 autocast; bfloat16
#           tensors raise the same under float16 autocast. The message names neither the operation
#           nor a type. float32 and float64 pass.
# Matters:  images and features are often kept as float16 to save memory while networks run in
#           bfloat16 on CPUs: batches drawn from such a store cannot be put together within the
#           step that uses them. Leaving autocast around the concatenation helps.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 || exit 2

"$folder/venv/bin/python" -W ignore - <<'PYTHON_END'
import torch

HALF, BRAIN = torch.float16, torch.bfloat16
MESSAGE = "Unexpected floating ScalarType in at::autocast::prioritize"
FIRST = torch.tensor([0])
JOINED = {
    "cat": lambda x: torch.cat([x, x]),
    "stack": lambda x: torch.stack([x, x]),
    "vstack": lambda x: torch.vstack([x, x]),
    "hstack": lambda x: torch.hstack([x, x]),
    "index_copy": lambda x: x.index_copy(0, FIRST, x[:1]),
}
OTHERS = {
    "+": lambda x: x + x,
    "where": lambda x: torch.where(x > 0, x, x),
    "indexing": lambda x: x[FIRST],
}


def outcome(function, kept, computing):
    """The type that comes out, or what is raised."""
    x = torch.ones(2, dtype=kept)
    with torch.autocast("cpu", dtype=computing or BRAIN, enabled=computing is not None):
        try:
            return function(x).dtype
        except RuntimeError as error:
            return "refused" if MESSAGE in str(error) else str(error)


as_stated = True
for name, function in {**JOINED, **OTHERS}.items():
    for kept in (HALF, BRAIN, torch.float32, torch.float64):
        for computing in (None, HALF, BRAIN):
            crossed = {kept, computing} == {HALF, BRAIN} and name in JOINED
            expected = "refused" if crossed else kept
            found = outcome(function, kept, computing)
            as_stated &= found == expected
            if crossed or found != expected:
                print(f"{name} of {kept} under {computing}: {found}")
print("as stated" if as_stated else "NOT as stated: the behaviour has changed")
raise SystemExit(0 if as_stated else 1)
PYTHON_END
