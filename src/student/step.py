"""The student's step towards the teacher, in stage (b) and alongside stage (a)."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from src.network.classifier import Classifier
from src.network.stages import heard
from src.objective.distillation import StudentOutput, reads_maps, reads_slopes
from src.objective.precision import backward_pass
from src.teacher.frozen import FrozenTeacher

Batch = Tensor | tuple[Tensor, Tensor] | Callable[[], Tensor]
"""Images ``[B, C, H, W]``; these, and what the teacher says of them, ``[B, K]``; or their draw."""


class _Lesson(NamedTuple):
    images: Tensor
    logits: Tensor
    inner: tuple[tuple[Tensor, ...], ...] = ()  # stage maps, and slopes, as they are asked for

    def of(self, rows: Tensor | None) -> "_Lesson":
        if rows is None:
            return self
        inner = tuple(tuple(stage[rows] for stage in kind) for kind in self.inner)
        return _Lesson(self.images[rows], self.logits[rows], inner)


def plain_output(network: Classifier, images: Tensor, with_maps: bool = False) -> StudentOutput:
    """What a student without compensation makes of ``images`` ``[B, C, H, W]``."""
    with heard(network, network.stage_names if with_maps else ()) as maps:
        logits = network(images)
    if not with_maps:
        return StudentOutput(logits, logits)
    return StudentOutput(logits, logits, tuple(maps), network.head.weight)


def meet(
    batch: Batch,
    teacher: FrozenTeacher,
    student: Callable[[Tensor, bool], StudentOutput],
    objective: nn.Module,
    drawn: Callable[[Tensor], Tensor | None] = lambda _: None,
) -> tuple[StudentOutput, Tensor]:
    """What the student makes of a batch, and its scalar loss against the teacher.

    Args:
        batch: Images, or what draws them, and what the teacher says of them if that is known. It
            is asked again where the objective reads its stage maps, which nobody records, and
            goes a part of the way back where it reads slopes.
        teacher: Whom the student meets; without gradients.
        student: Its output of images, and whether with stage maps.
        objective: ``(StudentOutput, teacher_logits [B, K]) -> scalar``, or with the teacher's
            stage maps as a third argument if it ``reads_maps``, and slopes as a fourth if it
            ``reads_slopes``.
        drawn: Rows of the batch to make the step on, by the teacher's logits; None: all.
    """
    with_maps = reads_maps(objective)
    with torch.no_grad():
        lesson = _lesson(batch, teacher, objective)
        lesson = lesson.of(drawn(lesson.logits))
    output = student(lesson.images, with_maps)
    return output, objective(output, lesson.logits, *lesson.inner)


def _lesson(batch: Batch, teacher: FrozenTeacher, objective: nn.Module) -> _Lesson:
    images: Tensor
    if isinstance(batch, tuple):
        if not reads_maps(objective):
            return _Lesson(*batch)
        images, _ = batch
    else:
        images = batch if isinstance(batch, Tensor) else batch()
    if reads_slopes(objective):
        said = teacher.explain(images)
    else:
        said = teacher(images, reads_maps(objective))
    inner = [kind for kind in (said.maps, said.slopes) if kind is not None]
    return _Lesson(images, said.logits, tuple(inner))


def update(
    loss: Tensor, optimizers: Iterable[Optimizer], backward: Callable[[Tensor], None]
) -> None:
    """Step on ``loss``; ``backward`` leaves gradients that are equal on all ranks."""
    optimizers = list(optimizers)
    for optimizer in optimizers:
        optimizer.zero_grad()
    with backward_pass(loss):
        backward(loss)
    for optimizer in optimizers:
        optimizer.step()
