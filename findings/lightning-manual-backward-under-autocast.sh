#!/usr/bin/env bash
# Lightning: in manual optimisation the backward pass runs under autocast, in automatic not.
#
# Package:  lightning 2.6.6 with torch 2.14.1, from PyPI; on the CPU.
# Run:      bash lightning-manual-backward-under-autocast.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     PyTorch, "Automatic Mixed Precision package": backward passes under autocast are not
#           recommended. Lightning, "Manual Optimization": self.manual_backward(loss) in the place
#           of loss.backward(), for precision and strategies to be handled.
# Expected: with precision="bf16-mixed" the same model, batch and loss have the same gradients in
#           both modes.
# Seen:     training_step is run under autocast as a whole, and manual_backward is called in it, so
#           a layer that was kept in float32 by autocast(enabled=False) has its gradient computed in
#           bfloat16. Automatic optimisation calls backward after the context has been left, and
#           gives the float32 gradient bit for bit.
# Matters:  methods with several optimisers or networks in turn (GANs, distillation without data)
#           need manual optimisation. What they keep in float32 for accuracy has that accuracy
#           forward only, without a warning. autocast(enabled=False) around manual_backward helps.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.14.1 ||
    exit 2

cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON_END'
import logging

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def loss_of(head, rows):
    """A float32 part of the model, as its user keeps it."""
    with torch.autocast("cpu", enabled=False):
        return head(rows).square().mean()


class Model(LightningModule):
    """One float32 layer."""

    def __init__(self, mode):
        super().__init__()
        self.automatic_optimization = mode == "automatic"
        self.leaves_autocast = mode == "manual, autocast left"
        self.head = nn.Linear(64, 10)
        self.under_autocast = None
        self.gradient = None
        self.head.register_full_backward_hook(self._look)

    def _look(self, *_):
        self.under_autocast = torch.is_autocast_enabled("cpu")

    def training_step(self, batch, _):
        """Loss, and in manual optimisation the step."""
        loss = loss_of(self.head, batch)
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not self.leaves_autocast):
            self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self):
        """Without momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_before_optimizer_step(self, optimizer):
        """What has been computed."""
        self.gradient = self.head.weight.grad.clone()


def trained(mode):
    """The model after one step, and the gradient in plain float32."""
    seed_everything(0, verbose=False)
    rows, model = torch.randn(1, 32, 64), Model(mode)
    (plain,) = torch.autograd.grad(loss_of(model.head, rows[0]), [model.head.weight])
    Trainer(
        max_steps=1,
        precision="bf16-mixed",
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(model, torch.utils.data.DataLoader(rows, batch_size=None))
    return model, plain


expected = {
    "automatic": (False, True),
    "manual": (True, False),
    "manual, autocast left": (False, True),
}
as_stated = True
for mode, wanted in expected.items():
    model, plain = trained(mode)
    found = model.under_autocast, torch.equal(model.gradient, plain)
    error = float((model.gradient - plain).abs().max() / plain.abs().max())
    print(f"{mode}: under autocast {found[0]}, gradient of float32 {found[1]}, error {error:.1e}")
    as_stated &= found == wanted and (error == 0 or 1e-3 < error < 1e-2)
print("as stated" if as_stated else "NOT as stated: the behaviour has changed")
raise SystemExit(0 if as_stated else 1)
PYTHON_END
