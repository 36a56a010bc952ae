"""The composed configuration, checked before any work starts.

Plain groups are pydantic models. A node with ``_target_`` is checked against the signature of
the class that it names: the constructor is its schema.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from pydantic import ValidationError

from src.common.errors import UserError
from src.common.package import NAME
from src.common.plugins import refuse_unfit_plugins
from src.config.describe import describe
from src.config.kind import with_defaults
from src.config.lengths import (
    companion_steps,
    mention_early_dictionary,
    mention_other_steps,
    refuse_other_rounds,
    student_steps,
)
from src.config.node import Node, import_class, refuse_foreign_targets
from src.config.rates import try_scheduler
from src.config.schema import Kdci, RunConfig, TeacherFit
from src.config.trial import check_node, try_adjustment, try_optimizer
from src.config.value import refuse_non_finite, shown

VANILLA = "none"
_PAPERS = "backdoor"
# What tables take a name of ours for: its class, and what makes an ablation one. Other names are
# free.
_FORMS = {
    "backdoor": "compensation.BackdoorCompensation",
    "random_attention": "compensation.BackdoorCompensation",
    "random_prototypes": "compensation.BackdoorCompensation",
    "uniform_prior": "compensation.BackdoorCompensation",
    "weighting": "weighting.InversePropensityWeighting",
    "prior": "prior.PriorAdjustment",
    "standardisation": "standardisation.Standardisation",
}
_ABLATIONS = {
    "random_attention": ("adjustment", "attention", "random"),
    "random_prototypes": ("dictionary", "prototypes", "random"),
    "uniform_prior": ("adjustment", "prior", "uniform"),
}
_TEACHER_TRIAL_STEPS = 100  # how many there will be depends on the images


def check(config: Mapping[str, Any]) -> RunConfig:
    """Check a resolved configuration, and build in small what it names.

    Raises:
        UserError: For the first wrong key: its name, its value, what is allowed, and for an
            unknown key the nearest name.
    """
    config = _with_own_precision(_without_vanilla(config))
    refuse_non_finite("", config)
    try:
        checked = RunConfig.model_validate(config)
    except ValidationError as error:
        raise UserError(describe(error, RunConfig)) from error
    refuse_unfit_plugins(checked.plugins)
    refuse_foreign_targets("", config, checked.plugins)
    check_node("dataset", checked.dataset, "dataset")
    check_node("pool", checked.pool, "pool")
    check_node("baseline", checked.baseline, "baseline")
    check_node("teacher.network", checked.teacher.network, "network")
    check_node("student.network", checked.student.network, "network")
    if checked.kdci is not None:
        check_node("kdci.dictionary", checked.kdci.dictionary, "clustering")
        check_node("kdci.adjustment", checked.kdci.adjustment, "adjustment")
        _refuse_two_numbers(checked.kdci)
        _refuse_other_form(checked.kdci)
    _check_teacher_fit(checked.teacher.fit)
    _check_distill(checked)
    if checked.task == "distill":
        _refuse_undivided(checked)
        refuse_other_rounds(checked)
        mention_other_steps(checked)
        mention_early_dictionary(checked)
    return checked


def _refuse_undivided(config: RunConfig) -> None:
    """Refuse on several ranks a batch size that only the method's constructor knows.

    Each rank would take all of it, and the batches of a round would grow with the ranks.
    """
    node, ranks = config.baseline, config.trainer.ranks
    size = with_defaults(node, import_class(node["_target_"])).get("batch_size")
    if ranks > 1 and "batch_size" not in node and type(size) is int:
        raise UserError(
            f"Missing configuration key 'baseline.batch_size': on {ranks} ranks it must be said, "
            f"to be shared among them; give ++baseline.batch_size={size}, the default of "
            f"{node['_target_']}"
        )


def _refuse_two_numbers(kdci: Kdci) -> None:
    """Refuse a dictionary whose N is another than ``kdci.N``, which it follows."""
    own = kdci.dictionary.get("N", kdci.N)
    if own != kdci.N:
        raise UserError(
            f"Expected kdci.dictionary.N to be kdci.N, but got {own} and {kdci.N}; "
            f"give kdci.N={own} alone"
        )


def _refuse_other_form(kdci: Kdci) -> None:
    """Refuse under a name of ours another adjustment, or an ablation without its option.

    Tables would show the name; other options of a form are told apart there.
    """
    if kdci.name not in _FORMS:
        return
    target, expected = kdci.adjustment["_target_"], _FORMS[kdci.name]
    if target != f"{NAME}.kdci.{expected}":
        names = [name for name, form in _FORMS.items() if target == f"{NAME}.kdci.{form}"]
        _refuse_name(kdci.name, "adjustment", expected.rpartition(".")[2], target, names)
    if kdci.name in _ABLATIONS:
        node, key, value = _ABLATIONS[kdci.name]
        got = getattr(kdci, node).get(key)
        if got != value:
            _refuse_name(kdci.name, f"{node}.{key}", value, got, [_PAPERS])


def _refuse_name(name: str, key: str, expected: str, got: Any, fitting: Sequence[str]) -> NoReturn:
    """Refuse a name of ours for its adjustment or option, and say which names would fit."""
    choice = f"choose kdci={fitting[0]}, or " if fitting else ""
    raise UserError(
        f"Expected kdci.{key} of kdci={name} to be {expected}, but got {shown(got)}; {choice}give "
        "a form of your own a name, with kdci.name=NAME"
    )


def _without_vanilla(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, without the unread options of ``kdci=none``."""
    if not isinstance(config, Mapping):
        raise UserError(f"Expected a configuration of keys and values, but got {shown(config)}")
    kdci = config.get("kdci")
    if kdci is None:
        raise UserError(
            "Missing configuration group 'kdci'; for a run without compensation use kdci=none"
        )
    is_vanilla = isinstance(kdci, Mapping) and kdci.get("name") == VANILLA
    return {**config, "kdci": None if is_vanilla else kdci}


def _with_own_precision(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same with this machine's precision in the place of ``auto``: numbers depend on it."""
    options = config.get("trainer")
    if not isinstance(options, Mapping) or options.get("precision") != "auto":
        return config
    # Brings torch, which must not look at GPUs before they have been given out.
    from src.common.device import has_native_bf16

    precision = "bf16-mixed" if has_native_bf16(str(options.get("accelerator"))) else "32-true"
    return {**config, "trainer": {**options, "precision": precision}}


def _check_teacher_fit(fit: TeacherFit) -> None:
    path = "teacher.fit.optimizer"
    check_node(path, fit.optimizer, "optimizer")
    schedules = {
        "one_cycle": {
            "_target_": "torch.optim.lr_scheduler.OneCycleLR",
            "max_lr": fit.optimizer.get("lr"),
            "total_steps": _TEACHER_TRIAL_STEPS,
        },
        "cosine": {
            "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "T_max": _TEACHER_TRIAL_STEPS,
        },
    }
    if fit.schedule == "one_cycle":
        _require_rate(path, fit.optimizer, "teacher.fit.schedule=one_cycle peaks at it")
    node = schedules[fit.schedule]
    optimizer = partial(try_optimizer, path, fit.optimizer)
    try_scheduler("teacher.fit.schedule", node, optimizer, _TEACHER_TRIAL_STEPS - 1)


def _check_distill(config: RunConfig) -> None:
    path, options = "distill.optimizer", config.distill
    check_node(path, options.optimizer, "optimizer")
    _require_rate(path, options.optimizer, "the student's parameter groups are made with it")
    if options.scheduler is not None:
        _refuse_rest(options.scheduler)
        check_node("distill.scheduler", options.scheduler, "scheduler")
    for scales, steps in _fits(config):
        optimizer = partial(try_optimizer, path, options.optimizer, scales)
        optimizer()
        if options.scheduler is not None:
            groups = f", with {len(scales)} parameter groups" if len(scales) > 1 else ""
            note = f" (this run steps it {steps} times{groups})"
            try_scheduler("distill.scheduler", options.scheduler, optimizer, steps, note)


def _refuse_rest(scheduler: Node) -> None:
    """Refuse keys that were added to an interpolation, and have taken the node's place."""
    key = next((str(each) for each in scheduler if "_target_" not in scheduler), None)
    if key is not None:
        raise UserError(
            "Missing configuration key 'distill.scheduler._target_': the class to build; where "
            "the node is an interpolation, a key alone takes its place: give the whole node, or "
            f"'++tables.cosine.{key}=...' where it is ${{tables.cosine}} (budget=laptop, smoke)"
        )


def _require_rate(path: str, node: Node, why: str) -> None:
    if "lr" not in node:
        raise UserError(f"Missing configuration key '{path}.lr': {why}")


def _fits(config: RunConfig) -> Iterator[tuple[list[float], int]]:
    """Relative rates of the parameter groups, and how often the schedule is stepped.

    For the student, and for its companion in stage (a), where there is one.
    """
    every = config.distill.scheduler_steps or config.distill.steps_per_epoch
    yield _scales(config.kdci), student_steps(config) // every
    alongside = companion_steps(config)
    if alongside is not None:
        yield [1.0], alongside // every


def _scales(kdci: Kdci | None) -> list[float]:
    """An adjustment that learns has a parameter group of its own."""
    if kdci is None:
        return [1.0]
    space = kdci.dictionary.get("space", "logits")
    try:
        adjustment = try_adjustment("kdci.adjustment", kdci.adjustment, space, kdci.N)
        learns = any(True for _ in adjustment.parameters())
    except UserError:  # it is refused, if at all, where the classes of the data are known
        learns = True
    return [1.0, kdci.lr_scale] if learns else [1.0]
