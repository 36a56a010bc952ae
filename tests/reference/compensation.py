"""Slow transcription of the backdoor-adjusted compensation, one sample and prototype at a time."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tests.reference.sums import total


def _scores(attention: str, s: Tensor, z: Tensor, learned: Mapping[str, Tensor]) -> Tensor:
    if attention == "cosine":
        cosine: Tensor = torch.dot(s, z) / (s.norm() * z.norm())
        return 10 * cosine
    query, key = learned["query"] @ s, learned["key"] @ z
    if attention == "dot":
        return torch.dot(query, key) / math.sqrt(len(key))
    return torch.dot(learned["score"][0], torch.tanh(query + key))


def attention_weights(
    attention: str, s: Tensor, prototypes: Tensor, learned: Mapping[str, Tensor]
) -> Tensor:
    """Lambda ``[N]`` of one prediction ``[K]``."""
    if attention == "uniform":
        return torch.full_like(prototypes[:, 0], 1 / len(prototypes))
    if attention == "random":
        return learned["random_weights"]
    exponentials = [_scores(attention, s, z, learned).exp() for z in prototypes]
    weights: Tensor = torch.stack(exponentials) / total(exponentials)
    return weights


def expectation(form: str, weights: Tensor, prototypes: Tensor) -> Tensor:
    """E_z[F(z)] ``[d]``."""
    pairs = list(zip(weights, prototypes, strict=True))
    if form == "geometric":
        return total(w * z for w, z in pairs)
    return total(w * z.exp() / z.exp().sum() for w, z in pairs).log()


def compensated(
    logits: Tensor,
    prototypes: Tensor,
    prior: Tensor,
    learned: Mapping[str, Tensor],
    *,
    attention: str,
    form: str,
    renormalise: bool,
    strength: float,
) -> Tensor:
    """``W_h s + strength * W_g E_z[F(z)]`` for every row s of ``logits`` ``[B, K]``.

    ``learned`` holds what there is of query, key, score, project, fuse and random_weights; no
    projection and no fuse are identities.
    """
    rows = []
    for s in logits:
        weights = attention_weights(attention, s, prototypes, learned) * prior
        if renormalise:
            weights = weights / total(weights)
        expected = expectation(form, weights, prototypes)
        if "project" in learned:
            expected = learned["project"] @ expected
        own = learned["fuse"] @ s if "fuse" in learned else s
        rows.append(own + strength * expected)
    return torch.stack(rows)
