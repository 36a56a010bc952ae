"""Backdoor-adjusted compensation of the student's prediction."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from src.common.errors import UserError
from src.common.seeding import generator
from src.kdci.additive import AdditiveScores
from src.kdci.adjustment import Adjustment
from src.kdci.dictionary import ConfounderDictionary
from src.kdci.mixture import log_mixture
from src.kdci.unevenness import Auto, strength_of
from src.objective.precision import at_least_float32

Attention = Literal["additive", "dot", "cosine", "uniform", "random"]
_COSINE_SCALE = 10.0


class BackdoorCompensation(Adjustment):
    """Fuses the prior-weighted expectation over the confounders into the student's logits.

    ``lambda_i = softmax_i(v^T tanh(W_q s + W_k z_i))``,
    ``E_z[F(z)] = sum_i lambda_i P(z_i) z_i``,  ``s~ = W_h s + W_g E_z[F(z)]``.

    Lambda and P each sum to 1, so the weights lambda_i P(z_i) sum to about 1/N: the paper's form
    fades as N grows, and ``renormalise`` makes it a proper expectation.

    Parameters have PyTorch's Linear initialisation, drawn from their own generator, so that the
    student's initialisation and data order equal those of ``kdci=none`` at the same seed.

    Args:
        dictionary: The confounders: N prototypes of width d, K in logit space.
        num_classes: K.
        attention: How lambda is made; ``cosine`` is the softmax of ten times cos(s, z_i),
            ``random`` is drawn once.
        attention_dim: Width of W_q s and W_k z.
        fusion: W_h: the identity (``residual``), or learned from the identity (``linear``).
        projection: W_g: ``learned``, or the ``identity``.
        expectation: ``geometric``, the paper's normalised weighted geometric mean, or
            ``arithmetic``, ``log sum_i w_i softmax(z_i)``, the adjustment formula itself.
        strength: Factor of the compensation; 0 with ``residual`` is the vanilla student, bit for
            bit, while W_h of ``linear`` is trained at any strength; ``auto`` follows the
            unevenness of the data, see :func:`src.kdci.unevenness.strength_of`.
        prior: P(z_i): the ``proportion`` of the cluster, or ``uniform`` (ablation).
        renormalise: Divide the weights by their sum.
        seed: Seed of the initialisation.

    Raises:
        UserError: If an option needs a dictionary of logits.

    Source: Wang et al., De-confounded Data-free Knowledge Distillation for Handling Distribution
    Shifts, CVPR 2024, arXiv:2403.19539. The forms of attention and fusion are our reading.
    """

    random_weights: Tensor

    def __init__(
        self,
        dictionary: ConfounderDictionary,
        *,
        num_classes: int,
        attention: Attention = "additive",
        attention_dim: Annotated[int, Field(gt=0, le=65_536)] = 128,
        fusion: Literal["residual", "linear"] = "residual",
        projection: Literal["learned", "identity"] = "learned",
        expectation: Literal["geometric", "arithmetic"] = "geometric",
        strength: Annotated[float, Field(ge=0)] | Auto = 1.0,
        prior: Literal["proportion", "uniform"] = "proportion",
        renormalise: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(dictionary, num_classes=num_classes, seed=seed)
        in_logits = {
            "kdci.adjustment.attention=cosine": attention == "cosine",
            "kdci.adjustment.projection=identity": projection == "identity",
            "kdci.adjustment.expectation=arithmetic": expectation == "arithmetic",
        }
        for option, chosen in in_logits.items():
            if chosen and dictionary.space != "logits":
                raise UserError(
                    f"Expected kdci.dictionary.space=logits with {option}, but got "
                    f"'{dictionary.space}'"
                )
        num_prototypes, dim = dictionary.prototypes.shape
        self.attention, self.expectation = attention, expectation
        self.chosen, self.renormalise = strength, renormalise
        self.uniform_prior = prior == "uniform"
        draws = generator("cpu", seed, "compensation")

        def linear(rows: int, columns: int) -> nn.Parameter:
            weight = torch.empty(rows, columns)
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=draws)
            return nn.Parameter(weight)

        learned = attention in ("additive", "dot")
        self.query = linear(attention_dim, num_classes) if learned else None
        self.key = linear(attention_dim, dim) if learned else None
        self.score = linear(1, attention_dim) if attention == "additive" else None
        self.project = linear(num_classes, dim) if projection == "learned" else None
        if fusion == "linear":
            self.fuse = nn.Parameter(torch.eye(num_classes))
        random = torch.rand(num_prototypes, generator=draws)
        self.register_buffer("random_weights", random / random.sum())
        self.load(dictionary)

    def load(self, dictionary: ConfounderDictionary) -> None:
        """Copy a dictionary in, in the place of another of its shape."""
        super().load(dictionary)
        if self.uniform_prior:
            self.prior.fill_(1 / len(self.prior))
        self.facts = {"strength": strength_of(self.chosen, dictionary)}

    def log_attention(self, logits: Tensor) -> Tensor:
        """Log lambda ``[B, N]`` of student logits ``[B, K]``; lambda sums to 1 in every row."""
        if self.attention == "uniform":
            return torch.full_like(self.prior, -math.log(len(self.prior))).expand(len(logits), -1)
        if self.attention == "random":
            return self.random_weights.log().expand(len(logits), -1)
        if self.attention == "cosine":
            scores = F.normalize(logits, dim=1) @ F.normalize(self.prototypes, dim=1).T
            return F.log_softmax(_COSINE_SCALE * scores, dim=1)
        if self.query is None or self.key is None:
            raise ValueError(f"Expected a known attention, but got '{self.attention}'")
        queries, keys = F.linear(logits, self.query), F.linear(self.prototypes, self.key)
        if self.score is None:
            return F.log_softmax(queries @ keys.T / math.sqrt(keys.shape[1]), dim=1)
        return F.log_softmax(AdditiveScores.apply(queries, keys, self.score[0]), dim=1)

    def expect(self, log_weights: Tensor) -> Tensor:
        """E_z[F(z)] ``[B, d]`` under the weights lambda_i P(z_i), given as logs ``[B, N]``.

        Logs, because an attention that underflows to 0 would make the gradient NaN.
        """
        if self.renormalise:
            log_weights = F.log_softmax(log_weights, dim=1)
        if self.expectation == "geometric":
            return log_weights.exp() @ self.prototypes
        log_classes = F.log_softmax(self.prototypes, dim=1)
        return log_mixture(log_weights, log_classes)

    def forward(self, logits: Tensor) -> Tensor:
        """Compensated logits ``[B, K]`` of plain student logits ``[B, K]``, at least float32."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = at_least_float32(logits)
            expected = self.expect(self.log_attention(logits) + self.prior.log())
            if self.project is not None:
                expected = F.linear(expected, self.project)
            return self.plain(logits) + self.facts["strength"] * expected
