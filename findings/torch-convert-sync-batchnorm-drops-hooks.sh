#!/usr/bin/env bash
# torch: convert_sync_batchnorm leaves the hooks of BatchNorm layers behind, without a word.
#
# Package:  torch 2.14.1, from PyPI.
# Run:      bash torch-convert-sync-batchnorm-drops-hooks.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     all BatchNorm layers of a module are converted to SyncBatchNorm layers.
# Expected: the converted layers do what the layers did, hooks included: parameters, statistics
#           and the mode of training are carried over, and the module returned is the one given.
# Seen:     forward and pre-forward hooks of the layers are gone. Hooks of their parameters stay,
#           and so do hooks of every other layer.
# Matters:  data-free distillation reads the statistics of a batch by hooks on BatchNorm layers
#           (DeepInversion and its kin). After a conversion, such as that of Lightning's
#           sync_batchnorm=True, they hear nothing: a list that they fill stays empty or old.
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
from torch import nn

network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
heard = []
for name, layer in (("conv", network[0]), ("norm", network[1])):
    layer.register_forward_pre_hook(lambda *_, name=name: heard.append(f"{name}: before"))
    layer.register_forward_hook(lambda *_, name=name: heard.append(f"{name}: after"))
    layer.weight.register_hook(lambda _, name=name: heard.append(f"{name}: gradient"))


def what_is_heard(module):
    heard.clear()
    module(torch.ones(2, 3, 4, 4)).sum().backward()
    return sorted(heard)


before = what_is_heard(network)
converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
after = what_is_heard(converted)
print("before:", before)
print("after: ", after, "in", type(converted[1]).__name__)
lost = sorted(set(before) - set(after))
print("lost:  ", lost)
if converted is network and len(before) == 6 and lost == ["norm: after", "norm: before"]:
    print("as stated")
    sys.exit(0)
print("the behaviour has changed")
sys.exit(1)
PY
