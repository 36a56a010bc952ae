#!/usr/bin/env bash
# On CPUs, fused Adam pairs weights and gradients by their place in memory, not by their index.
#
# Package:  torch 2.14.1, from PyPI.
# Run:      bash torch-fused-adam-cpu-ignores-strides-of-gradient.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     fused=True is a faster implementation of the same algorithm.
# Expected: the same step as with fused=False, but for rounding.
# Seen:     where a weight is in channels_last and its gradient is contiguous, weights move by the
#           gradients of others, without a word. With equal strides both agree.
# Matters:  backward() gives a leaf a gradient of the leaf's own strides, so ordinary training is
#           safe. A gradient that is written by hand is not: of meta-learning, of another copy of
#           the network, averaged over processes, or out of a file.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 || exit 2
cd "$folder"
"$folder/venv/bin/python" - <<'PY' 2>/dev/null
import sys

import torch

torch.manual_seed(0)
weight, gradient = torch.randn(2, 8, 4, 3, 3).unbind()


def stepped(layout, fused):
    """The weight, in channels_last, after a step along a gradient of that layout."""
    leaf = torch.nn.Parameter(weight.clone(memory_format=torch.channels_last))
    leaf.grad = gradient.clone(memory_format=layout)
    torch.optim.Adam([leaf], lr=0.1, fused=fused).step()
    return leaf.detach()


apart = {}
for layout in (torch.channels_last, torch.contiguous_format):
    apart[layout] = (stepped(layout, True) - stepped(layout, False)).abs().max().item()
    print(f"gradient in {layout}: fused and plain weights differ by up to {apart[layout]:.2g}")
if apart[torch.channels_last] < 1e-5 and apart[torch.contiguous_format] > 0.1:
    print("as stated")
else:
    print("NOT as stated: the behaviour has changed")
    sys.exit(1)
PY
