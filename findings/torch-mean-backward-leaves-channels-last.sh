#!/usr/bin/env bash
# PyTorch: the gradient of a spatial mean of channels_last maps is not channels_last.
#
# Package:  torch 2.14.1, from PyPI; on the CPU.
# Run:      bash torch-mean-backward-leaves-channels-last.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     "Channels Last Memory Format in PyTorch": operators that support the format keep it, so
#           that a network stays in it without a word.
# Expected: maps in channels_last get a gradient in channels_last.
# Seen:     through `maps.mean(dim=(2, 3))` they get a contiguous one, so that what lies before it
#           works on two formats at once. The same mean written over rows, `maps.permute(0, 2, 3,
#           1).flatten(1, 2).mean(1)`, gives a gradient in channels_last. Times of backward, and of
#           one product of maps and gradient after it, are printed, not judged: about 2 and 4 ms
#           against 1 and 1 ms for 64 maps of 32 channels and 32 x 32 pixels.
# Matters:  global average pooling and statistics of feature maps stand in every step of
#           distillation and of inversion; the cost falls on the layers before them.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 || exit 2

"$folder/venv/bin/python" -W ignore - <<'PYTHON_END'
import statistics
import time

import torch

torch.set_num_threads(1)
LAST = torch.channels_last


def over_space(maps):
    return maps.mean(dim=(2, 3))


def over_rows(maps):
    return maps.permute(0, 2, 3, 1).flatten(1, 2).mean(dim=1)


def outcome(mean):
    """Whether the gradient is channels_last; milliseconds of backward, and of a product after."""
    maps = torch.randn(64, 32, 32, 32).contiguous(memory_format=LAST).requires_grad_()
    backward, after = [], []
    for _ in range(15):
        pooled = mean(maps)
        start = time.perf_counter()
        (gradient,) = torch.autograd.grad(pooled, maps, torch.ones_like(pooled))
        middle = time.perf_counter()
        gradient * maps.detach()
        backward.append(1000 * (middle - start))
        after.append(1000 * (time.perf_counter() - middle))
    kept = gradient.is_contiguous(memory_format=LAST)
    return kept, statistics.median(backward), statistics.median(after)


found = {}
for mean in (over_space, over_rows):
    found[mean.__name__], backward, after = outcome(mean)
    kept = "kept" if found[mean.__name__] else "lost"
    print(f"{mean.__name__}: channels_last {kept}, {backward:.1f} ms, product {after:.1f} ms")
as_stated = found == {"over_space": False, "over_rows": True}
print("as stated" if as_stated else "NOT as stated: the behaviour has changed")
raise SystemExit(0 if as_stated else 1)
PYTHON_END
