"""How long stages (a) and (b) are, and what has to be as long."""

import logging

from src.common.errors import UserError
from src.common.signals import speaks
from src.config.node import target_of
from src.config.schema import RunConfig

_log = logging.getLogger(__name__)
_NEARLY = 0.05  # a cosine that ends so early, or goes on so long, is at 0.6% of its first rate
_FEWEST = 10  # student steps; fewer teach nothing at any rate


def companion_steps(config: RunConfig) -> int | None:
    """Steps of the student alongside stage (a); None where there is none."""
    options = config.substitution
    reads_student = getattr(target_of("baseline", config.baseline), "reads_student", False)
    if not reads_student or options.mode == "online":
        return None
    return max(0, options.rounds - options.warmup_rounds) * config.distill.steps_per_round


def student_steps(config: RunConfig) -> int:
    """Steps of the student of stage (b)."""
    return config.distill.epochs * config.distill.steps_per_epoch


def refuse_other_rounds(config: RunConfig) -> None:
    """Refuse an online run of other length than a schedule of its baseline.

    Online, the student's epochs and the warm-up say how many rounds there are, and
    ``substitution.rounds`` only how long a schedule is that follows it. One round more or less
    is let be: without a warm-up there is a first round before the student.

    Args:
        config: A run. Its baseline has such a schedule if its ``total_rounds`` are
            ``substitution.rounds``; others were given on purpose.

    Raises:
        UserError: If the lengths differ.
    """
    options, distill = config.substitution, config.distill
    if options.mode != "online" or config.baseline.get("total_rounds") != options.rounds:
        return
    of_epoch = -(-distill.steps_per_epoch // distill.steps_per_round)
    with_student = distill.epochs * of_epoch
    if abs(max(1, options.warmup_rounds) + with_student - options.rounds) > 1:
        expected = options.warmup_rounds + with_student
        raise UserError(
            f"Expected substitution.rounds={expected}, but got {options.rounds}: an online run "
            f"has distill.epochs={distill.epochs} of {of_epoch} rounds after "
            f"{options.warmup_rounds} of warm-up, and baseline.total_rounds, the length of a "
            f"schedule, follows substitution.rounds; give substitution.rounds={expected}"
        )


def mention_other_steps(config: RunConfig) -> None:
    """Warn of a student alongside stage (a) that takes other steps than that of stage (b).

    The learning rates of both follow ``distill.scheduler``. Its end fits one of them: the other
    is never annealed, or goes up and down.
    """
    alongside, steps = companion_steps(config), student_steps(config)
    if alongside is None or config.distill.scheduler is None or steps < _FEWEST:
        return
    if abs(alongside - steps) > _NEARLY * steps and speaks():
        _log.warning(
            "The student alongside stage (a) takes %d steps and that of stage (b) %d, but both "
            "follow distill.scheduler, which ends with one of them; for equal lengths give %s",
            alongside,
            steps,
            _equal_lengths(config, steps),
        )


def _equal_lengths(config: RunConfig, steps: int) -> str:
    """Options with which both students take ``steps``, nearly, in words."""
    every, warmup = config.distill.steps_per_round, config.substitution.warmup_rounds
    with_student = max(1, round(steps / every))
    if abs(with_student * every - steps) <= _NEARLY * steps:
        rounds = warmup + with_student
        return f"substitution.rounds={rounds}, or another distill.steps_per_round"
    divisor = next(each for each in range(min(every, steps), 0, -1) if steps % each == 0)
    return (
        f"a distill.steps_per_round that divides {steps}, such as distill.steps_per_round="
        f"{divisor} substitution.rounds={warmup + steps // divisor}"
    )


def mention_early_dictionary(config: RunConfig) -> None:
    """Warn of a dictionary of what a generator makes before it has learned anything, for good.

    Online, the dictionary is of the images that there are when the student starts: without a
    warm-up, of one round. A pool is as it is from the beginning.
    """
    options, kdci = config.substitution, config.kdci
    if kdci is None or kdci.refresh_every is not None or not speaks():
        return
    reads_pool = getattr(target_of("baseline", config.baseline), "reads_pool", False)
    if options.mode == "online" and options.warmup_rounds <= 1 and not reads_pool:
        _log.warning(
            "The confounder dictionary is made of one round's images and kept: the student starts "
            "after it (substitution.mode=online, substitution.warmup_rounds=%d); give "
            "kdci.refresh_every=N for another one every N rounds",
            options.warmup_rounds,
        )
