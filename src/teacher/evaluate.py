"""Accuracy of a network that no trainer hosts."""

import torch

from src.common.distributed import sum_over_ranks
from src.common.freezing import mode
from src.dataset.loader import LabelledBatches
from src.network.classifier import Classifier


@torch.no_grad()
def accuracy(network: Classifier, batches: LabelledBatches) -> float:
    """Top-1 accuracy over all ranks' batches, percent, in float32 and eval mode.

    Raises:
        FloatingPointError: If a prediction is NaN or infinite, which would count as class 0.
    """
    hits = torch.zeros(3, device=batches.device)
    with mode(network, False):
        for images, labels in batches:
            logits = network(images)
            correct, bad = logits.argmax(1) == labels, ~logits.isfinite()
            count = torch.full((), len(labels), device=hits.device)
            hits += torch.stack([correct.sum(), count, bad.sum()])
    correct_total, total, bad = sum_over_ranks(hits)
    if bad:
        raise FloatingPointError(
            f"Logits of the {type(network).__name__} on the test split are NaN or infinite, so "
            "it has no accuracy; check that its checkpoint is whole and was made for these "
            "images, or train it again at a lower learning rate"
        )
    return 100 * float(correct_total / total)
