#!/usr/bin/env bash
# Lightning: a training that SIGTERM has stopped ends with exit code 0.
#
# Packages: lightning 2.6.6 with torch 2.14.1, from PyPI; CPU, one process.
# Run:      bash lightning-sigterm-exit-0.sh   (installs some GB, minutes)
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Expected: a non-zero exit code, 143 (128 + 15) by habit: the training is not finished.
# Seen:     Trainer.fit answers SIGTERM with SIGTERMException, a SystemExit that carries no code,
#           so that the interpreter exits with 0. What stands after `fit` is never reached. Ctrl-C
#           (SIGINT) gives 1, not the usual 130.
# Matters:  batch systems send SIGTERM before they preempt a job, requeue what failed, and take
#           exit code 0 for a job that is done. A handler of one's own, put back in place in
#           on_fit_start (the Trainer registers its own before), decides the code again.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    lightning==2.6.6 torch==2.14.1 numpy==2.4.1 || exit 2

cat > "$folder/train.py" <<'PYTHON_END'
import os
import signal
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader


class Stopped(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        if batch_idx == 2:
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


trainer = Trainer(
    accelerator="cpu",
    max_epochs=3,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Stopped(), DataLoader(torch.randn(8, 2), batch_size=2))
print("fit has returned")
PYTHON_END

cd "$folder"
seen=""
for name in SIGTERM SIGINT; do
    code=0
    venv/bin/python train.py $name > $name.txt 2>&1 || code=$?
    seen="$seen $name=$code"
    grep -q "fit has returned" $name.txt && seen="$seen(returned)"
done
echo "lightning $(venv/bin/pip show lightning 2>/dev/null | grep '^Version')"
echo "expected: SIGTERM=143 SIGINT=130"
echo "seen:    $seen"
if [ "$seen" = " SIGTERM=0 SIGINT=1" ]; then
    echo "as stated"
else
    echo "NOT as stated: the behaviour has changed"
    exit 1
fi
