#!/usr/bin/env bash
# Lightning + torchmetrics + torchvision: `import lightning.pytorch` loads more than twice PyTorch.
#
# Packages: torch 2.14.1, torchvision 0.29.1, lightning 2.6.6, torchmetrics 1.9.0, from PyPI.
# Run:      bash lightning-import-loads-torchvision-and-dynamo.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     torch.compile's machinery is loaded when something is compiled: `import torch` alone
#           leaves torch._dynamo out. torchvision is an optional library of Lightning's and of
#           torchmetrics'; nothing in either's quick start uses it.
# Expected: importing Lightning costs about what importing torch does, whatever else is installed.
# Seen:     `import lightning.pytorch` always loads torch._dynamo, torch.fx's symbolic shapes and
#           sympy, for a class that one of its modules compares with. Where torchvision is
#           installed, it loads that with all its models and operators, too: a utility module of
#           Lightning's imports torchmetrics, which imports all its functional metrics, one of
#           which imports torchvision. Seconds of CPU of each import are printed, not judged;
#           once 2.5 for torch and 6.5 for Lightning with torchvision.
# Matters:  every rank, every worker of a launcher and every point of a sweep is a process that
#           pays for it, and a command line that only complains about a typing error does, too.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.14.1 torchvision==0.29.1 lightning==2.6.6 torchmetrics==1.9.0 || exit 2

cat >"$folder/loaded.py" <<'PYTHON_END'
import importlib
import sys
import time

start = time.process_time()
importlib.import_module(sys.argv[1])
seconds = time.process_time() - start
names = ("torchvision", "torch._dynamo", "sympy")
print(*(int(name in sys.modules) for name in names))
print(f"{sys.argv[1]}: {seconds:.1f} s of CPU", file=sys.stderr)
PYTHON_END

loaded() {
    "$folder/venv/bin/python" -W ignore "$folder/loaded.py" "$1"
}

torch_alone=$(loaded torch) || exit 2
with_torchvision=$(loaded lightning.pytorch) || exit 2
"$folder/venv/bin/pip" uninstall --quiet --yes torchvision || exit 2
without_torchvision=$(loaded lightning.pytorch) || exit 2

echo "torchvision, torch._dynamo, sympy loaded by"
echo "  torch                                $torch_alone"
echo "  lightning.pytorch, torchvision there $with_torchvision"
echo "  lightning.pytorch, without it        $without_torchvision"
[ "$torch_alone" = "0 0 0" ] && [ "$with_torchvision" = "1 1 1" ] &&
    [ "$without_torchvision" = "0 1 1" ]
