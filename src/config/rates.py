"""Steps a learning-rate schedule in small: what it makes of the rates, for the whole run."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from src.common.errors import UserError
from src.config.attempt import attempt, works
from src.config.node import Node, build_partial

if TYPE_CHECKING:
    from torch.optim import Optimizer

_MOST_STEPS = 1000
_OWN_RATES = ("base_lr", "max_lr")  # of schedules that do not ask the optimiser for the first one
_ROUNDING = 1e-9  # relative, of rates; in 1000 steps of a million a cosine loses as much
_REST = "eta_min"  # what the rates of all groups come down to


def try_scheduler(
    path: str, node: Node, optimizer: Callable[[], "Optimizer"], steps: int, note: str = ""
) -> None:
    """Build a schedule and step it as often as the run will; beyond 1000 steps, only the last.

    Args:
        path: Dotted key of the node.
        node: The node.
        optimizer: Makes what it is built on.
        steps: How often to step it.
        note: For the message, after what went wrong.

    Raises:
        UserError: If it cannot be built or stepped, makes a rate negative or not finite, or gives
            a second parameter group another rate, relative to the first one's, than it came with.
    """

    def rates_of(tried: Node) -> list[list[float]]:
        return _step_scheduler(tried, optimizer(), steps)

    rates = attempt(path, node, rates_of, note)
    lost = _lost_scale(rates)
    if lost is not None:
        scale = rates[0][-1] / rates[0][0]
        cures = ["kdci.lr_scale=1"]
        for cure, condition in _cures(node, scale):
            if works(lambda tried: _require_scale(rates_of(tried)), {**node, **cure}):
                given = " ".join(f"{key}={value}" for key, value in cure.items())
                cures.append(f"the schedule {given.replace(', ', ',')}{condition}")
        raise UserError(
            f"Expected '{path}' ({node['_target_']}) to keep the adjustment's learning rate at "
            f"kdci.lr_scale={scale:g} times the student's, but it gives {lost[-1]:.3g} and "
            f"{lost[0]:.3g}; give {', or '.join(cures)}"
        )


def _cures(node: Node, scale: float) -> Iterator[tuple[Node, str]]:
    """Values that may let a schedule keep the scale, and when they can be given, in words."""
    first = {
        key: value[0] if isinstance(value, list) and value else value
        for key, value in node.items()
        if key in _OWN_RATES
    }
    if first:
        # Exactly, but without the digits of 0.1 * 3.
        pairs = {key: [rate, float(f"{rate * scale:.12g}")] for key, rate in first.items()}
        yield pairs, " (where no student is trained alongside stage (a))"
    if _REST in node:
        yield {_REST: 0.0}, ""


def _lost_scale(rates: Sequence[Sequence[float]]) -> Sequence[float] | None:
    """Rates that are the least as far apart as the optimiser's own; None if all are so.

    Where these are equal, nothing is asked for.
    """
    own, *later = rates
    if own[-1] == own[0]:
        return None
    scale, least = own[-1] / own[0], _ROUNDING * max(own)

    def loss(each: Sequence[float]) -> float:
        expected = scale * each[0]
        return abs(each[-1] - expected) / max(each[-1], expected, least)

    worst = max(later, key=loss)
    return worst if loss(worst) > _ROUNDING else None


def _require_scale(rates: Sequence[Sequence[float]]) -> None:
    if _lost_scale(rates) is not None:
        raise ValueError("expected the scale of the rates to be kept")


def _step_scheduler(node: Node, optimizer: "Optimizer", steps: int) -> list[list[float]]:
    """Rates of all groups: the optimiser's own, those of the schedule, and before every step."""
    rates = [_rates(optimizer)]
    scheduler = build_partial(node)(optimizer)
    rates.append(_rates(optimizer))
    for step in range(min(steps, _MOST_STEPS)):
        _check_rates(optimizer, step)
        rates.append(_rates(optimizer))
        scheduler.step()
    if steps > _MOST_STEPS:
        scheduler.last_epoch = steps - 1
        scheduler.step()
    return rates


def _rates(optimizer: "Optimizer") -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def _check_rates(optimizer: "Optimizer", step: int) -> None:
    for rate in _rates(optimizer):
        if not math.isfinite(rate) or rate < 0:
            raise ValueError(
                f"the learning rate is {rate} after {step} steps, expected a finite one >= 0"
            )
