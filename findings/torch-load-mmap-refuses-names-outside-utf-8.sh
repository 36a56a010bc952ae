#!/usr/bin/env bash
# torch.load reads a checkpoint in a folder whose name is not UTF-8; with mmap=True it cannot.
#
# Package:  torch 2.14.1, from PyPI, on Linux.
# Run:      bash torch-load-mmap-refuses-names-outside-utf-8.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     mmap=True: the file is mapped rather than loading all storages into memory; of names
#           of files nothing is said.
# Expected: the same tensors as without mmap. A name on Linux is any bytes but / and NUL, and
#           Python hands those that are not UTF-8 on as surrogates, to open() and torch.save, too.
# Seen:     torch.save writes it, torch.load reads it, from the same str and the same Path; with
#           mmap=True UnicodeEncodeError, "surrogates not allowed". In a folder of UTF-8 with
#           letters beyond ASCII mmap works.
# Matters:  old shares have names in Latin-1. A program that maps large checkpoints and reads small
#           ones fails for some files of one folder, and with an error that is no OSError.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 || exit 2
cd "$folder"
"$folder/venv/bin/python" - <<'PY' 2>/dev/null
import os
import sys

import torch


def read(folder, **options):
    """Whether the tensor comes back, or the name of the error."""
    try:
        return torch.equal(torch.load(os.path.join(folder, "a.pt"), **options), torch.ones(3))
    except Exception as error:
        return type(error).__name__


seen = []
for name in (b"\xc3\xa9t\xc3\xa9", b"\xe9t\xe9"):  # the same letters in UTF-8 and in Latin-1
    folder = os.fsdecode(name)
    os.mkdir(folder)
    torch.save(torch.ones(3), os.path.join(folder, "a.pt"))
    seen += [read(folder), read(folder, mmap=True)]
    print(f"{name!r}: read {seen[-2]}, mapped {seen[-1]}")
if seen == [True, True, True, "UnicodeEncodeError"]:
    print("as stated")
else:
    print("NOT as stated: the behaviour has changed")
    sys.exit(1)
PY
