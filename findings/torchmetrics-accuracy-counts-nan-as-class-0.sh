#!/usr/bin/env bash
# torchmetrics: a classifier whose logits are NaN has an accuracy, that of predicting class 0.
#
# Package:  torchmetrics 1.9.0 with torch 2.14.1, from PyPI; on the CPU.
# Run:      bash torchmetrics-accuracy-counts-nan-as-class-0.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     MulticlassAccuracy takes float predictions as logits or probabilities and applies argmax
#           over the classes; `validate_args` "indicates if input arguments and tensors should be
#           validated for correctness", and is on by default.
# Expected: predictions that are no number are refused, or make the result NaN.
# Seen:     rows that are NaN throughout count as class 0, rows of which one entry is NaN as the
#           class of that entry, whatever the others hold: argmax takes NaN for the largest. The
#           result is a plausible number, for balanced classes 1/K, with validation on.
# Matters:  a student that diverged in half precision reports chance, or exactly the share of class
#           0, and in a mean over seeds it looks like a poor run. Whether logits are finite has to be
#           asked apart.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.14.1 torchmetrics==1.9.0 || exit 2

"$folder/venv/bin/python" -W ignore - <<'PYTHON_END'
import torch
from torchmetrics.classification import MulticlassAccuracy

CLASSES, EACH = 4, 5
LABELS = torch.arange(CLASSES).repeat_interleave(EACH)
NOTHING = torch.full((CLASSES * EACH, CLASSES), torch.nan)
RIGHT = 10 * torch.nn.functional.one_hot(LABELS, CLASSES).float()
ONE_NAN = RIGHT.clone()
ONE_NAN[:, 2] = torch.nan  # the other entries still tell the right class


def accuracy(logits, average="micro"):
    metric = MulticlassAccuracy(CLASSES, average=average, validate_args=True)
    metric.update(logits, LABELS)
    return metric.compute().tolist()


found = {
    "right logits": accuracy(RIGHT),
    "NaN throughout": accuracy(NOTHING),
    "NaN throughout, macro": accuracy(NOTHING, "macro"),
    "NaN throughout, by class": accuracy(NOTHING, "none"),
    "one NaN, in class 2, by class": accuracy(ONE_NAN, "none"),
}
for name, value in found.items():
    print(f"{name}: {value}")
as_stated = list(found.values()) == [1.0, 0.25, 0.25, [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
print("as stated" if as_stated else "NOT as stated: the behaviour has changed")
raise SystemExit(0 if as_stated else 1)
PYTHON_END
