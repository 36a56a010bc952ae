"""Accuracy of a network that no trainer hosts."""

import torch

from src.common.distributed import sum_over_ranks
from src.common.freezing import mode
from src.dataset.loader import LabelledBatches
from src.network.classifier import Classifier


@torch.no_grad()
def accuracy(network: Classifier, batches: LabelledBatches) -> float:
    """Top-1 accuracy over all ranks' batches, percent, in float32 and eval mode."""
    hits = torch.zeros(2, device=batches.device)
    with mode(network, False):
        for images, labels in batches:
            correct = network(images).argmax(1) == labels
            hits += torch.stack([correct.sum(), torch.tensor(len(labels), device=hits.device)])
    correct_total, total = sum_over_ranks(hits)
    return 100 * float(correct_total / total)
