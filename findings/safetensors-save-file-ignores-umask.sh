#!/usr/bin/env bash
# safetensors' save_file makes files that only their owner can read, whatever the umask says.
#
# Package:  safetensors 0.8.0 and numpy 2.4.6, from PyPI.
# Run:      bash safetensors-save-file-ignores-umask.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     save_file "saves a dictionary of tensors into raw bytes in safetensors format", into
#           the named file; nothing is said of permissions.
# Expected: as with open(path, "wb"): mode 0666 less the umask for a new file, and an unchanged
#           mode for a file that is there already.
# Seen:     mode 0600 for both, with umask 0022 and 0002; a file of mode 0664 becomes one of 0600.
#           The same tensors, made into bytes by save() and written by open(), have mode 0644.
# Matters:  checkpoints in a cache that a group shares cannot be read by anybody but whoever wrote
#           them, while files beside them, of other writers, can. chmod after saving helps.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    safetensors==0.8.0 numpy==2.4.6 || exit 2
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import os
import sys
from pathlib import Path

import numpy
from safetensors.numpy import save, save_file

tensors = {"weight": numpy.zeros(4, numpy.float32)}


def mode(path):
    return oct(path.stat().st_mode & 0o777)


found = {}
for umask in (0o022, 0o002):
    os.umask(umask)
    path = Path(f"new-{umask:04o}.safetensors")
    save_file(tensors, path)
    found[f"save_file, new file, umask {umask:04o}"] = mode(path)
os.umask(0o022)
path = Path("existing.safetensors")
path.touch()
path.chmod(0o664)
save_file(tensors, path)
found["save_file, existing file of mode 0664"] = mode(path)
path = Path("bytes.safetensors")
path.write_bytes(save(tensors))
found["save and open, umask 0022"] = mode(path)

for what, seen in found.items():
    print(f"{what}: {seen}")
if list(found.values()) == ["0o600", "0o600", "0o600", "0o644"]:
    print("as stated")
else:
    print("NOT as stated: the behaviour has changed")
    sys.exit(1)
PY
