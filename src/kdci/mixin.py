"""Stage (b) with KDCI: a student module whose prediction is compensated before the loss."""

from typing import Any

import torch
from torch import Tensor

from src.common.distributed import rank
from src.common.seeding import generator
from src.common.systematic import resampled
from src.kdci.adjustment import Adjustment, require_probabilities
from src.objective.distillation import StudentOutput

_TINY = 1e-12  # below any logits' size; a student that says 0 of everything has a ratio, too


class KDCIMixin:
    """Put before a student module: ``class KDCIStudent(KDCIMixin, StudentModule)``.

    The adjustment is attached while training only; the student that is evaluated, exported and
    read by synthesis losses is the plain network.

    Args:
        adjustment: Attached module, trained jointly with the student.
        lr_scale: Learning rate of the adjustment relative to the student's.
        resampling_seed: Draw again within each batch where the adjustment weighs samples; None
            where batches come so weighted already.
    """

    adjustment: Adjustment
    student_step: int

    def __init__(
        self,
        *args: Any,
        adjustment: Adjustment,
        lr_scale: float = 1.0,
        resampling_seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.adjustment = adjustment
        self.is_compensated = adjustment.changes_predictions
        self.resampling_seed = resampling_seed
        self.lr_scale = lr_scale

    def drawn(self, teacher_logits: Tensor) -> Tensor | None:
        """Rows of the batch that are drawn by weight; None: all, as they are.

        Raises:
            UserError: If the adjustment's weights are not all in (0, 1].
        """
        if self.resampling_seed is None:
            return None
        weights = self.adjustment.weights(teacher_logits)
        if weights is None:
            return None
        draws = generator("cpu", self.resampling_seed, "resampling", rank(), self.student_step)
        # Sums on a GPU have no deterministic form, which `trainer.deterministic` would refuse.
        weights = weights.cpu()
        require_probabilities(weights, self.adjustment)
        rows = resampled(weights, float(torch.rand((), generator=draws)))
        return rows.to(teacher_logits.device)

    def student_output(self, images: Tensor, with_maps: bool = False) -> StudentOutput:
        """Compensated and plain logits of ``images`` ``[B, C, H, W]``; maps are the plain ones."""
        own: StudentOutput = super().student_output(images, with_maps)  # type: ignore[misc]
        plain = own._replace(plain_logits=self.adjustment.plain(own.logits))
        if own.head is not None and self.adjustment.fuse is not None:
            with torch.autocast(images.device.type, enabled=False):
                plain = plain._replace(head=self.adjustment.fuse @ own.head)
        return plain._replace(logits=self.adjustment(own.logits))

    def plain_logits(self, raw_logits: Tensor) -> Tensor:
        """What the deployed student predicts, ``[B, K]``."""
        return self.adjustment.plain(raw_logits)

    @torch.no_grad()
    def watched(self, output: StudentOutput) -> dict[str, Tensor]:
        """Mean size of the compensation relative to the logits, ``|s~ - W_h s| / |W_h s|``.

        A constant that it adds to all classes counts, though a softmax does not see it.
        """
        watched: dict[str, Tensor] = super().watched(output)  # type: ignore[misc]
        if not self.is_compensated:
            return watched
        added = (output.logits - output.plain_logits).float().norm(dim=1).mean()
        size = output.plain_logits.float().norm(dim=1).mean().clamp_min(_TINY)
        return watched | {"compensation_ratio": added / size}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The student's groups and one for the adjustment."""
        groups: list[dict[str, Any]] = super().parameter_groups()  # type: ignore[misc]
        parameters = list(self.adjustment.parameters())
        if not parameters:
            return groups
        return [*groups, {"params": parameters, "lr": groups[0]["lr"] * self.lr_scale}]
