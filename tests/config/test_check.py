import copy
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from src.baseline import dafl
from src.common.errors import UserError, nearest
from src.common.package import CONF
from src.config.check import _FORMS, check
from src.kdci.adjustment import Adjustment
from src.network import convnet
from src.network.classifier import Classifier
from src.pipeline.refusals import refuse_misfit
from src.pipeline.share import of_a_rank
from src.substitution.contract import Baseline
from tests.compose import plain


def changed(**values: Any) -> dict[str, Any]:
    """The default configuration with other values, by dotted key with ``__`` for the dots."""
    config = copy.deepcopy(plain())
    for key, value in values.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config


def complaint(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        check(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_dictionary_has_the_number_of_prototypes_that_tables_show() -> None:
    line = complaint(changed(kdci__dictionary__N=8))
    assert "kdci.dictionary.N to be kdci.N, but got 8 and 16; give kdci.N=8 alone" in line


def test_ranks_share_each_batch() -> None:
    config = check(
        changed(
            trainer__devices=2,
            trainer__nodes=2,
            distill__batch_size=12,
            baseline__batch_size=8,
            teacher__fit__batch_size=16,
        )
    )
    own = of_a_rank(config)
    assert (own.distill.batch_size, own.baseline["batch_size"]) == (3, 2)
    assert own.teacher.fit.batch_size == 4
    assert own.distill.optimizer == config.distill.optimizer
    # what identities are made of
    assert (config.distill.batch_size, config.baseline["batch_size"]) == (12, 8)
    assert config.teacher.fit.batch_size == 16


@pytest.mark.parametrize("size", [True, 0.5, "all"])
def test_an_option_that_is_no_number_of_images_is_not_shared(size: object) -> None:
    config = check(changed(trainer__devices=2))
    given = config.model_copy(update={"baseline": config.baseline | {"batch_size": size}})
    assert of_a_rank(given).baseline["batch_size"] is size


def test_a_teacher_that_is_only_read_need_not_share_its_batch() -> None:
    changes = {"trainer__devices": 2, "teacher__fit__batch_size": 9}
    config = changed(**changes, teacher__checkpoint="teacher.pth", teacher__class_map=None)
    assert check(config).teacher.fit.batch_size == 9


def test_sizes_that_are_not_read_need_not_be_shared() -> None:
    changes = {"trainer__devices": 3, "distill__batch_size": 128, "teacher__fit__batch_size": 96}
    assert check(changed(**changes, task="teacher")).trainer.ranks == 3


def test_an_option_of_that_name_may_be_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnBatches(Good):
        def __init__(self, *, batch_size: int | None, **options: Any) -> None:
            super().__init__(**options)

    config = check(with_class(monkeypatch, OwnBatches, batch_size=None))
    assert of_a_rank(config) == config


def test_ranks_do_not_take_a_default_each(monkeypatch: pytest.MonkeyPatch) -> None:
    class Above(Good):
        def __init__(self, *, batch_size: int = 12, **options: Any) -> None:
            super().__init__(**options)

    class OwnDefault(Above):
        def __init__(self, *, extra: int = 1, **options: Any) -> None:
            super().__init__(**options)

    config = with_class(monkeypatch, OwnDefault)
    check(config)
    config["trainer"]["devices"] = 2
    assert "give ++baseline.batch_size=12, the default of src" in complaint(config)
    check(config | {"task": "teacher"})
    config["baseline"]["batch_size"] = 12
    assert of_a_rank(check(config)).baseline["batch_size"] == 6


def test_one_rank_takes_all() -> None:
    config = check(plain())
    assert of_a_rank(config) == config


def test_the_default_is_valid() -> None:
    config = check(plain())
    assert (config.seed, config.substitution.mode) == (0, "replay")
    assert config.kdci is not None
    assert config.kdci.adjustment["attention"] == "additive"


@pytest.mark.parametrize(
    "overrides",
    [
        ("kdci=none", "kdci.N=8"),
        ("kdci=none", "kdci.adjustment.strength=inf"),
        ("trainer.precision=bf16-mixed",),
        ("substitution.mode=online", "distill.steps_per_round=5000"),
        ("trainer=ddp",),
        ("trainer=ddp_cpu",),
        ("logger=wandb",),
        ("logger=wandb", "logger.wandb.mode=offline", "logger.wandb.tags=[first]"),
        ("budget=smoke", "baseline=dfnd"),
        ("budget=paper",),
        (
            "kdci.adjustment.attention=cosine",
            "kdci.adjustment.projection=identity",
            "kdci.adjustment.expectation=arithmetic",
        ),
        ("substitution.mode=online", "kdci.refresh_every=5"),
        ("distill.scheduler=null",),
    ],
    ids=" ".join,
)
def test_documented_options_are_valid(overrides: tuple[str, ...]) -> None:
    check(plain(*overrides))


def test_without_compensation_nothing_of_it_is_left() -> None:
    assert check(plain("kdci=none", "kdci.N=8")).kdci is None


def test_a_checked_configuration_cannot_be_changed() -> None:
    config: Any = check(plain())
    with pytest.raises(Exception, match="frozen"):
        config.seed = 1


WRONG_VALUES: list[tuple[str, Any]] = [
    ("kdci__N", 0),
    ("kdci__N", -3),
    ("kdci__N", 2.5),
    ("kdci__N", "many"),
    ("kdci__N", True),
    ("kdci__N", None),
    ("kdci__adjustment__attention", "nearest"),
    ("kdci__adjustment__strength", -0.1),
    ("kdci__adjustment__strength", "strong"),
    ("kdci__adjustment__renormalise", "yes"),
    ("substitution__mode", "live"),
    ("substitution__record_from", 1.5),
    ("substitution__rounds", 0),
    ("distill__batch_size", 32.0),
    ("distill__optimizer", None),
    ("teacher__expected_acc1", 101),
    ("teacher__fit__schedule", "step"),
    ("trainer__devices", 0),
    ("trainer__precision", "16-mixed"),
    ("seed", -1),
    ("budget", 3),
    ("paths__cache", None),
    ("logger__wandb", "offline"),
    ("baseline__batch_size", "big"),
    ("baseline__batch_size", 32.5),
    ("baseline__protocol", "third"),
    ("baseline__one_hot_weight", "heavy"),
    ("baseline__generator__latent_dim", "wide"),
    ("student__network__widths", "wide"),
    ("student__network__widths", ["wide"]),
]


@pytest.mark.parametrize(("key", "value"), WRONG_VALUES)
def test_a_wrong_value_is_named_with_its_key(key: str, value: Any) -> None:
    message = complaint(changed(**{key: value}))
    assert f"'{key.replace('__', '.')}" in message
    shown = value[0] if isinstance(value, list) else value
    assert f"but got {shown!r}" in message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tags": [""]}, "at least 1 character"),
        ({"tags": ["good", "x" * 65]}, "at most 64 characters"),
        ({"project": "team/kdci"}, "Expected logger.wandb.project with the name of a project"),
        ({"project": ""}, "Expected logger.wandb.project with the name of a project"),
        ({"mode": "off"}, "'logger.wandb.mode': expected 'online', 'offline' or 'disabled'"),
    ],
)
def test_what_wandb_would_refuse(values: dict[str, Any], expected: str) -> None:
    options: dict[str, Any] = {"project": "kdci", "mode": None, "entity": None, "tags": []}
    assert expected in complaint(changed(logger__wandb=options | values))


def test_what_is_allowed_is_said() -> None:
    message = complaint(changed(kdci__adjustment__attention="nearest"))
    assert "'additive', 'dot', 'cosine', 'uniform' or 'random'" in message
    assert "greater than 0" in complaint(changed(kdci__N=0))
    assert "less than or equal to 1" in complaint(changed(substitution__record_from=1.5))


@pytest.mark.parametrize(
    ("key", "nearest_name"),
    [
        ("distil", "distill"),
        ("kdci__dictionary__n_prototypes", "prototypes"),
        ("kdci__adjustment__attention_dims", "attention_dim"),
        ("substitution__round", "rounds"),
        ("distill__steps_per_epochs", "steps_per_epoch"),
        ("teacher__fit__epoch", "epochs"),
        ("teacher__chekpoint", "checkpoint"),
        ("baseline__one_hot_wieght", "one_hot_weight"),
        ("baseline__generator__latent", "latent_dim"),
        ("dataset__rooot", None),
        ("student__network__width", "widths"),
        ("distill__optimizer__momentun", "momentum"),
        ("distill__scheduler__T_maxx", "T_max"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(key: str, nearest_name: str | None) -> None:
    message = complaint(changed(**{key: 1}))
    assert message.startswith(f"Unknown configuration key '{key.replace('__', '.')}'")
    assert ("did you mean" in message) == (nearest_name is not None)
    if nearest_name:
        assert f"did you mean '{nearest_name}'?" in message


@pytest.mark.parametrize("key", ["seed", "kdci.N", "teacher.fit.epochs", "baseline.batch_size"])
def test_a_missing_key_is_named(key: str) -> None:
    config = changed()
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    del node[last]
    assert complaint(config) == f"Missing configuration key '{key}'"


class PerClass(Adjustment):
    """Scales each class by a number of its own."""

    def __init__(self, *, num_classes: int, by_class: list[float], **supplied: Any) -> None:
        super().__init__(num_classes=num_classes, **supplied)
        if len(by_class) != num_classes:
            raise UserError(f"expected {num_classes} values, but got {len(by_class)}")
        self.scale = nn.Parameter(torch.tensor(by_class))

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.scale


def test_an_adjustment_of_one_number_a_class_waits_for_the_classes_of_the_data() -> None:
    target = f"{__name__}.PerClass"
    named = {"kdci__name": "perclass", "kdci__adjustment": {"_target_": target}}
    config = changed(plugins=["tests"], **named)
    config["kdci"]["adjustment"]["by_class"] = [1.0] * 10
    refuse_misfit(check(config))
    config["kdci"]["adjustment"]["by_class"] = [1.0] * 3
    with pytest.raises(UserError, match="expected 10 values, but got 3"):
        refuse_misfit(check(config))


def test_rebuilding_the_dictionary_needs_new_images() -> None:
    message = complaint(changed(kdci__refresh_every=3))
    assert "kdci.refresh_every needs substitution.mode=online" in message


def test_images_are_held_out_of_a_replay_only() -> None:
    message = complaint(changed(distill__held_out=0.1, substitution__mode="online"))
    assert "distill.held_out needs substitution.mode=replay" in message


@pytest.mark.parametrize("share", [-0.1, 1])
def test_a_share_of_the_images_is_held_out(share: float) -> None:
    assert "Wrong value of 'distill.held_out'" in complaint(changed(distill__held_out=share))


def test_a_class_map_needs_a_checkpoint() -> None:
    message = complaint(changed(teacher__class_map="map.csv"))
    assert "teacher.class_map needs teacher.checkpoint" in message


HOSTILE = ["os.system", "subprocess.Popen", "builtins.eval", "torch.hub.load", "srcx.y.Z", "", 3]


@pytest.mark.parametrize("target", HOSTILE)
@pytest.mark.parametrize(
    "node",
    [
        "dataset",
        "pool",
        "baseline",
        "baseline__generator",
        "baseline__optimizer",
        "teacher__network",
        "teacher__fit__optimizer",
        "student__network",
        "distill__optimizer",
        "distill__scheduler",
    ],
)
def test_a_foreign_target_is_refused(node: str, target: Any) -> None:
    message = complaint(changed(**{f"{node}___target_": target}))
    assert message.startswith(f"Refused '{node.replace('__', '.')}._target_={target}'")


def evil(trace: Path) -> dict[str, Any]:
    return {"_target_": "os.mkdir", "_args_": [str(trace)]}


@pytest.mark.parametrize(
    "hide",
    [
        lambda node: node,
        lambda node: [node],
        lambda node: {"deep": {"deeper": node}},
        lambda node: [[{"deep": node}]],
    ],
)
@pytest.mark.parametrize("place", ["distill__optimizer__lr", "distill__optimizer___args_"])
def test_a_foreign_target_is_found_wherever_it_hides(
    place: str, hide: Callable[[Any], Any], tmp_path: Path
) -> None:
    message = complaint(changed(**{place: hide(evil(tmp_path / "trace"))}))
    assert "_target_=os.mkdir'" in message
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("src.baseline.nowhere.DAFL", "Cannot find"),
        ("src.baseline.dafl.Nothing", "Cannot find"),
        ("src.common.files.sha256_file", "expected a class"),
        ("src.point.run_point", "expected a class"),
    ],
)
def test_a_target_of_ours_must_be_a_class(target: str, why: str) -> None:
    message = complaint(changed(baseline___target_=target))
    assert why in message
    assert target in message


@pytest.mark.parametrize("key", ["teacher", "optimizer", "generator"])
def test_an_object_cannot_be_a_plain_value(key: str) -> None:
    message = complaint(changed(**{f"baseline__{key}": "mine"}))
    assert message.startswith(f"Wrong value of 'baseline.{key}': expected")
    assert message.endswith("but got 'mine'")


def test_the_nearest_name_is_only_named_when_it_is_near() -> None:
    assert nearest("round", ["rounds", "mode"]) == "; did you mean 'rounds'?"
    assert nearest("xyz", ["rounds", "mode"]) == ""


def test_a_value_of_several_kinds_is_told_of_all() -> None:
    rule = r"'baseline.num_select': expected a valid integer or less than 1, but got 1\.5"
    with pytest.raises(UserError, match=rule):
        check(plain("baseline=dfnd", "baseline.num_select=1.5"))


OPTIMIZER, SCHEDULER = "torch.optim.", "torch.optim.lr_scheduler."
GONE = object()
"""A key that is left out."""


EPOCHWISE = "distill.scheduler_steps=null"


@pytest.mark.parametrize(("is_native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_precision_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, is_native: bool, precision: str
) -> None:
    monkeypatch.setattr("src.common.device.has_native_bf16", lambda accelerator: is_native)
    found = check(changed(trainer__precision="auto"))
    assert found == check(changed(trainer__precision=precision))


def with_(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The default configuration, stepped ten times, with other values by dotted key."""
    config = copy.deepcopy(plain(EPOCHWISE))
    for key, value in changes:
        *parents, last = key.split(".")
        node: Any = config
        for parent in parents:
            node = node[parent]
        if value is GONE:
            del node[last]
        else:
            node[last] = value
    return config


def schedule(name: str, **arguments: Any) -> tuple[str, Any]:
    return "distill.scheduler", {"_target_": f"{SCHEDULER}{name}", **arguments}


def optimizer(name: str, **arguments: Any) -> tuple[str, Any]:
    return "distill.optimizer", {"_target_": f"{OPTIMIZER}{name}", **arguments}


def network(name: str, **arguments: Any) -> tuple[str, Any]:
    return "teacher.network", {"_target_": f"src.network.{name}", **arguments}


ONE_CYCLE = ("teacher.fit.schedule", "one_cycle")
WRONG_OPTIMISERS: list[tuple[tuple[tuple[str, Any], ...], str]] = [
    ((("distill.optimizer.lr", "abc"),), "'distill.optimizer.lr': expected a valid number"),
    ((("distill.optimizer.lr", "0.1"),), "'distill.optimizer.lr': expected a valid number"),
    ((("distill.optimizer.lr", None),), "'distill.optimizer.lr': expected a valid number"),
    ((("distill.optimizer.lr", [0.1]),), "expected a valid number, but got [0.1]"),
    ((("distill.optimizer.lr", True),), "expected a valid number, but got True"),
    ((("distill.optimizer.lr", -1),), "(torch.optim.SGD) with lr=-1"),
    ((("distill.optimizer.lr", -1),), "Invalid learning rate: -1"),
    ((("distill.optimizer.lr", float("nan")),), "expected a finite number, but got nan"),
    ((("distill.optimizer.lr", float("inf")),), "expected a finite number, but got inf"),
    ((("distill.optimizer.lr", GONE),), "Missing configuration key 'distill.optimizer.lr'"),
    ((("distill.optimizer.momentum", "abc"),), "optimizer.momentum': expected a valid number"),
    ((("distill.optimizer.momentum", -1),), "Invalid momentum value: -1"),
    ((("distill.optimizer.weight_decay", "abc"),), "weight_decay': expected a valid number"),
    ((("distill.optimizer.params", []),), "'distill.optimizer.params': expected no such key"),
    (
        (("distill.optimizer._args_", [0.1]),),
        "Unknown configuration key 'distill.optimizer._args_'",
    ),
    ((("distill.optimizer._partial_", 3),), "optimizer._partial_': expected true or false"),
    ((("distill.optimizer", None),), "'distill.optimizer': expected a node with a `_target_`"),
    ((("distill.optimizer", {}),), "Missing configuration key 'distill.optimizer._target_'"),
    ((optimizer("SGD", lr=0.1, nesterov=True),), "Nesterov momentum requires a momentum"),
    ((optimizer("Optimizer", defaults={}),), "Cannot build 'distill.optimizer'"),
    ((optimizer("LBFGS", lr=0.1),), "missing 1 required positional argument: 'closure'"),
    ((optimizer("SparseAdam", lr=0.1),), "SparseAdam does not support dense gradients"),
    ((optimizer("Muon", lr=0.1),), "Muon only supports 2D parameters"),
    ((optimizer("lr_scheduler.StepLR", step_size=3),), "an optimiser, a subclass of torch.optim."),
    ((optimizer("lr_scheduler.StepLR", step_size=3),), "but got a learning-rate schedule"),
    ((("distill.optimizer.lr", {"_target_": "torch.optim.SGD"}),), "expected a plain value"),
    ((("baseline.optimizer.betas", [2, 3]),), "Invalid beta parameter at index 0: 2"),
    ((("baseline.optimizer.betas", 0.9),), "betas': expected a valid tuple, but got 0.9"),
    ((("baseline.optimizer.betas", [0.9]),), "betas': expected more values, but got (0.9,)"),
    ((("baseline.optimizer.lr", -1),), "Cannot build 'baseline.optimizer' (torch.optim.Adam)"),
    ((("baseline.optimizer", None),), "a `_target_` that makes an optimiser, but got None"),
    ((("baseline.optimizer", GONE),), "Missing configuration key 'baseline.optimizer'"),
    ((("baseline.optimizer._partial_", GONE),), "'baseline.optimizer._partial_': expected true"),
    ((("baseline.optimizer._target_", f"{SCHEDULER}StepLR"),), "expected an optimiser"),
    (
        (("teacher.fit.optimizer.lr", "abc"),),
        "'teacher.fit.optimizer.lr': expected a valid number",
    ),
    ((("teacher.fit.optimizer.lr", -1),), "Cannot build 'teacher.fit.optimizer'"),
    ((ONE_CYCLE, ("teacher.fit.optimizer.lr", GONE)), "'teacher.fit.optimizer.lr': teacher.fit."),
    (
        (ONE_CYCLE, ("teacher.fit.optimizer", {"_target_": f"{OPTIMIZER}Adagrad", "lr": 0.1})),
        "optimizer must support momentum",
    ),
]
WRONG_SCHEDULES: list[tuple[tuple[tuple[str, Any], ...], str]] = [
    ((("distill.scheduler.T_max", 0),), "Cannot build 'distill.scheduler'"),
    ((("distill.scheduler.T_max", 0),), "with T_max=0: expected T_max >= 1 (this run"),
    ((schedule("StepLR", step_size=0),), "with step_size=0: expected step_size >= 1"),
    ((("distill.scheduler.T_max", "abc"),), "T_max': expected a valid integer, but got 'abc'"),
    ((("distill.scheduler.T_max", 2.5),), "T_max': expected a valid integer"),
    ((("distill.scheduler.T_max", 10**10),), "T_max': expected <= 1000000000"),
    (
        (("distill.scheduler.T_max", 10), ("distill.scheduler.eta_min", -1.0)),
        "expected a finite one >= 0",
    ),
    (
        (("distill.scheduler", {"T_max": 3}),),
        "Missing configuration key 'distill.scheduler._targe",
    ),
    ((schedule("MultiStepLR", milestones="abc"),), "milestones': expected a valid list"),
    ((schedule("MultiStepLR", milestones=["a"]),), "milestones': expected a valid integer"),
    ((schedule("MultiStepLR", milestones=[1], gamma="abc"),), "gamma': expected a valid number"),
    ((schedule("StepLR", step_size=0),), "(torch.optim.lr_scheduler.StepLR) with step_size=0"),
    ((schedule("StepLR", step_size=1, gamma=-1.0),), "the learning rate is -0.1 after 1 steps"),
    ((schedule("ExponentialLR", gamma=1e300),), "the learning rate is inf after 2 steps"),
    ((schedule("OneCycleLR", max_lr=0.1, total_steps=9),), "this run steps it 10 times"),
    (
        (("distill.epochs", 5000), schedule("OneCycleLR", max_lr=0.1, total_steps=4999)),
        "Tried to step 5000 times",
    ),
    (
        (("distill.scheduler_steps", 30), schedule("OneCycleLR", max_lr=0.1, total_steps=19)),
        "this run steps it 20 times",
    ),
    ((schedule("ReduceLROnPlateau"),), "missing 1 required positional argument: 'metrics'"),
    ((schedule("LambdaLR", lr_lambda="abc"),), "'distill.scheduler.lr_lambda': expected a node"),
    ((schedule("LambdaLR", lr_lambda=["abc"]),), "cannot be given in YAML, but got ['abc']"),
    ((schedule("MultiplicativeLR", lr_lambda=[]),), "from other schedules or functions cannot be"),
    (
        (schedule("SequentialLR", schedulers=[schedule("StepLR")[1]], milestones=[3]),),
        "from other schedules or functions cannot be given in YAML",
    ),
    (
        (schedule("ChainedScheduler", schedulers=[schedule("StepLR")[1]]),),
        "from other schedules or functions cannot be given in YAML",
    ),
    ((schedule("LRScheduler"),), "NotImplementedError"),
    ((schedule("Counter"),), "collections.Counter': expected a class of src., torch.optim."),
    ((("distill.scheduler._target_", "torch.optim.SGD"),), "but got an optimiser"),
]
WRONG_OBJECTS: list[tuple[tuple[tuple[str, Any], ...], str]] = [
    ((("baseline._target_", "src.network.resnet.ResNet"),), "a baseline, a subclass of src.subst"),
    ((("baseline._target_", "src.network.resnet.ResNet"),), "but got a classifier"),
    ((("dataset._target_", "src.dataset.photo_patches.PhotoPatches"),), "got a pool of images"),
    ((("dataset._target_", "src.dataset.contract.Dataset"),), "it must define `class_names`"),
    ((("pool._target_", "src.baseline.dafl.DAFL"),), "expected a pool of images"),
    ((("pool.num_images", 0),), "Cannot build 'pool'"),
    ((("pool.num_images", 0),), "Expected `num_images` >= 1, but got 0"),
    ((("student.network._target_", "src.network.generator.Generator"),), "got an image generator"),
    ((("student.network.num_classes", 3),), "num_classes': expected no such key"),
    ((("student.network.widths", []),), "Cannot build 'student.network'"),
    ((("student.network.widths", [0]),), "to be positive numbers, but got [0]"),
    ((("student.network.widths", [10**6, 10**6]),), "at most 10000000000 parameters"),
    ((network("resnet.ResNet", depth=19),), "Cannot build 'teacher.network'"),
    ((network("resnet.ResNet"),), "Missing configuration key 'teacher.network.depth'"),
    ((network("vgg.VGG", depth=12),), "to be one of [8, 11, 13], but got 12"),
    ((network("wide_resnet.WideResNet", depth=16, width=0),), "`width` to be at least 1"),
    ((network("wide_resnet.WideResNet", depth=60_004, width=1),), "depth': expected <= 10000"),
    ((("baseline.generator", "mine"),), "that makes an image generator, but got 'mine'"),
    ((("baseline.generator._partial_", False),), "generator._partial_': expected true"),
    ((("baseline.generator.latent_dim", -3),), "Cannot build 'baseline.generator'"),
    ((("baseline.generator.latent_dim", 0),), "it has a layer without weights"),
    ((("baseline.generator.latent_dim", 10**9),), "at most 10000000000 parameters"),
    ((("baseline.generator.image_size", 32),), "image_size': expected no such key"),
    ((("baseline.generator._target_", "src.network.vgg.VGG"),), "expected an image generator"),
]
WRONG_GROUPS: list[tuple[tuple[tuple[str, Any], ...], str]] = [
    ((("kdci", None),), "for a run without compensation use kdci=none"),
    ((("kdci", GONE),), "for a run without compensation use kdci=none"),
    ((("kdci", "hello"),), "'kdci': expected a group of keys, but got 'hello'; choose an option"),
    ((("kdci", [1]),), "'kdci': expected a group of keys, but got [1]"),
    ((("kdci", 3),), "'kdci': expected a group of keys, but got 3"),
    ((("kdci.name", "a/b"),), "'kdci.name': "),
    ((("kdci.name", []),), "'kdci.name': expected a valid string, but got []"),
    (
        (("dataset", GONE),),
        "Missing configuration key 'dataset'; choose an option with dataset=..",
    ),
    ((("dataset", None),), "'dataset': expected a node with a `_target_`, but got None; choose"),
    ((("pool", None),), "choose an option with dataset@pool=..., see conf/dataset"),
    ((("distill", GONE),), "Missing configuration key 'distill'"),
    ((("distill", [1]),), "'distill': expected a group of keys, but got [1]"),
    ((("teacher", None),), "'teacher': expected a group of keys, but got None; choose an option"),
    ((("seed", GONE),), "Missing configuration key 'seed'"),
    ((("foo", 1),), "Unknown configuration key 'foo'"),
    ((("baseline", {1: 2}),), "expected a valid string, but got 1"),
    ((("baseline.generator", {"_partial_": True}),), "expected a node with a `_target_`"),
]
WEIGHTING = "src.kdci.weighting.InversePropensityWeighting"
WRONG_NUMBERS: list[tuple[tuple[tuple[str, Any], ...], str]] = [
    (
        (("kdci.adjustment.strength", float("inf")),),
        "'kdci.adjustment.strength': expected a finite number, but got inf",
    ),
    (
        (("kdci.adjustment.strength", float("nan")),),
        "'kdci.adjustment.strength': expected a finite number, but got nan",
    ),
    ((("baseline.one_hot_weight", float("inf")),), "'baseline.one_hot_weight': expected a finite"),
    ((("baseline.optimizer.betas", [0.5, float("nan")]),), "'baseline.optimizer.betas.1': expect"),
    ((("distill.batch_size", 65_537),), "less than or equal to 65536, but got 65537"),
    ((("teacher.fit.batch_size", 65_537),), "less than or equal to 65536"),
    ((("baseline.batch_size", 10**8),), "'baseline.batch_size': expected <= 65536"),
    ((("baseline.batch_size", "32"),), "'baseline.batch_size': expected a valid integer"),
    (
        (("kdci.adjustment", {"_target_": WEIGHTING, "gamma": 200.0}),),  # would be infinite
        "'kdci.adjustment.gamma': expected",
    ),
    ((("kdci.N", 10**6 + 1),), "less than or equal to 1000000 or 'auto',"),
    ((("kdci.adjustment.attention_dim", 65_537),), "less than or equal to 65536"),
    ((("kdci.dictionary.iterations", 10**5 + 1),), "less than or equal to 100000,"),
    ((("kdci.dictionary.restarts", 10**4 + 1),), "less than or equal to 10000,"),
    ((("substitution.num_images", 10**9 + 1),), "less than or equal to 1000000000"),
    ((("substitution.rounds", 10**9 + 1),), "less than or equal to 1000000000"),
    ((("distill.epochs", 10**9 + 1),), "less than or equal to 1000000000"),
    ((("distill.steps_per_epoch", 10**9 + 1),), "less than or equal to 1000000000"),
    ((("seed", 2**63),), "'seed': expected less than 9223372036854775808"),
    ((("seed", 10**5000),), "'seed': expected less than 9223372036854775808"),
    ((("teacher.seed", 2**63),), "'teacher.seed': expected less than"),
    ((("pool.seed", 2**63),), "'pool.seed': expected <= 9223372036854775807"),
    ((("trainer.devices", 4097),), "less than or equal to 4096"),
    ((("trainer.devices", 3),), "of all 3 ranks together, each of which takes an equal share"),
    ((("distill.batch_size", 1),), "distill.batch_size=1: BatchNorm needs two images at least"),
    ((("baseline.balance_log_base", 1.0),), "'baseline.balance_log_base': expected"),
    (
        (("trainer.nodes", 2), ("distill.batch_size", 1)),
        "distill.batch_size=1 is of all 2 ranks together, each of which takes an equal share, of "
        "two images at least; the nearest that can be shared is 4",
    ),
    (
        (("trainer.devices", 2), ("baseline.batch_size", 9)),
        "baseline.batch_size=9 is of all 2 ranks together",
    ),
    (
        (("trainer.devices", 2), ("teacher.fit.batch_size", 9)),
        "teacher.fit.batch_size=9 is of all 2 ranks together",
    ),
]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [*WRONG_OPTIMISERS, *WRONG_SCHEDULES, *WRONG_OBJECTS, *WRONG_GROUPS, *WRONG_NUMBERS],
)
def test_what_could_not_run_is_refused_in_one_line(
    changes: tuple[tuple[str, Any], ...], expected: str
) -> None:
    assert expected in complaint(with_(*changes))


@pytest.mark.parametrize(
    "change",
    [
        *(
            optimizer(name, lr=0.1)
            for name in ("Adam", "AdamW", "NAdam", "RMSprop", "Rprop", "Adagrad", "Adafactor")
        ),
        schedule("StepLR", step_size=3),
        schedule("MultiStepLR", milestones=[2, 4], gamma=0.1),
        schedule("LinearLR"),
        schedule("PolynomialLR", power=0.5),
        schedule("CosineAnnealingWarmRestarts", T_0=2),
        schedule("CyclicLR", base_lr=0.01, max_lr=0.1),
        schedule("OneCycleLR", max_lr=0.1, total_steps=10, anneal_strategy="linear"),
        ("seed", 2**63 - 1),
        ("distill.batch_size", 65_536),
    ],
)
def test_what_can_run_passes(change: tuple[str, Any]) -> None:
    check(with_(change))


def test_a_companion_steps_the_schedule_too() -> None:
    steps = "distill.steps_per_epoch=10", "distill.steps_per_round=5", "substitution.rounds=300"
    config = plain("baseline=deepinv", *steps)
    config["distill"]["scheduler"] = schedule("OneCycleLR", max_lr=0.1, total_steps=100)[1]
    assert "this run steps it 150 times" in complaint(config)
    config["substitution"]["mode"] = "online"
    check(config)


ONLINE = ("dataset=cifar10", "budget=paper", "substitution.mode=online")


@pytest.mark.parametrize(
    ("baseline", "of_epoch", "published"),
    [("cudfkd", 40, 10000), ("dfad", 50, 25000), ("mosaickd", 196, 39200)],
)
def test_an_online_run_is_as_long_as_the_schedule_of_its_baseline(
    baseline: str, of_epoch: int, published: int
) -> None:
    short = (f"baseline={baseline}", *ONLINE, "distill.epochs=20")
    rounds = 20 * of_epoch
    assert complaint(plain(*short)) == (
        f"Expected substitution.rounds={rounds}, but got {published}: an online run has "
        f"distill.epochs=20 of {of_epoch} rounds after 0 of warm-up, and baseline.total_rounds, "
        f"the length of a schedule, follows substitution.rounds; give substitution.rounds={rounds}"
    )
    check(plain(*short, f"substitution.rounds={rounds}"))
    check(plain(*short, f"baseline.total_rounds={rounds}"))
    check(plain(*short, "substitution.mode=replay"))
    check(plain(*short, "task=teacher"))


def test_rounds_of_an_online_run_include_the_warm_up() -> None:
    warmed_up = ("baseline=dfad", *ONLINE, "substitution.warmup_rounds=10")
    assert complaint(plain(*warmed_up)).endswith("give substitution.rounds=25010")
    check(plain(*warmed_up, "substitution.rounds=25010"))


SHORT = ("baseline=dfq", "dataset=digits", "budget=laptop", "distill.epochs=1")


def test_a_companion_of_other_length_than_the_schedule_is_mentioned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check(plain(*SHORT))
    assert caplog.messages == [
        "The student alongside stage (a) takes 600 steps and that of stage (b) 60, but both "
        "follow distill.scheduler, which ends with one of them; for equal lengths give "
        "substitution.rounds=6, or another distill.steps_per_round"
    ]
    caplog.clear()
    check(plain(*SHORT, "substitution.rounds=6"))
    check(plain(*SHORT, "substitution.rounds=9", "substitution.warmup_rounds=3"))
    check(plain(*SHORT, "distill.steps_per_round=1"))
    assert caplog.messages == []


@pytest.mark.parametrize(
    "change",
    ["baseline=dafl", "substitution.mode=online", "distill.scheduler=null", "task=teacher"],
)
def test_where_no_companion_follows_the_schedule_nothing_is_mentioned(
    change: str, caplog: pytest.LogCaptureFixture
) -> None:
    check(plain(*SHORT, change, "kdci=none"))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("started", "lines"),
    [({"RANK": "0", "KDCI_FOUND": "{}"}, 0), ({"RANK": "0"}, 1), ({"RANK": "1"}, 0)],
    ids=["here", "torchrun, first", "torchrun, second"],
)
def test_of_several_ranks_one_mentions_it(
    started: dict[str, str],
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", **started}.items():
        monkeypatch.setenv(name, value)
    check(plain(*SHORT))
    assert len(caplog.messages) == lines


def test_another_form_has_another_name() -> None:
    other = ("kdci=backdoor", "kdci/adjustment=weighting")
    message = complaint(plain(*other))
    assert "adjustment of kdci=backdoor to be BackdoorCompensation, but got" in message
    check(plain(*other, "kdci.name=mine"))


COMPENSATING = ("kdci/adjustment=compensation", "kdci.adjustment.attention=dot")
MISNAMED: list[tuple[tuple[str, ...], str]] = [
    (
        ("kdci=prior", "kdci/adjustment=weighting"),
        "kdci.adjustment of kdci=prior to be PriorAdjustment, but got "
        "'src.kdci.weighting.InversePropensityWeighting'; choose kdci=weighting, or give a form",
    ),
    (("kdci=prior", "kdci/adjustment=standardisation"), "; choose kdci=standardisation, or give"),
    (("kdci=weighting", *COMPENSATING), "; choose kdci=backdoor, or give a form of your own a na"),
    (("kdci=standardisation", "kdci/adjustment=prior"), "; choose kdci=prior, or give a form of "),
    (
        ("kdci=random_attention", "kdci.adjustment.attention=dot"),
        "kdci.adjustment.attention of kdci=random_attention to be random, but got 'dot'; choose "
        "kdci=backdoor, or give a form of your own a name, with kdci.name=NAME",
    ),
    (
        ("kdci=uniform_prior", "kdci.adjustment.prior=proportion"),
        "kdci.adjustment.prior of kdci=uniform_prior to be uniform, but got 'proportion'; choose",
    ),
    (
        ("kdci=random_prototypes", "kdci.dictionary.prototypes=kmeans"),
        "kdci.dictionary.prototypes of kdci=random_prototypes to be random, but got 'kmeans'; ch",
    ),
    (
        ("kdci=random_prototypes", "~kdci.dictionary.prototypes"),
        "kdci.dictionary.prototypes of kdci=random_prototypes to be random, but got None; choose",
    ),
]


@pytest.mark.parametrize(("overrides", "expected"), MISNAMED)
def test_a_name_of_ours_is_what_tables_take_it_for(
    overrides: tuple[str, ...], expected: str
) -> None:
    message = complaint(plain(*overrides))
    assert expected in message
    assert message.endswith("give a form of your own a name, with kdci.name=NAME")
    check(plain(*overrides, "kdci.name=mine"))
    cure = re.search("choose (kdci=[a-z_]+)", message)
    assert cure is not None
    check(plain(cure[1], *overrides[1:]))


@pytest.mark.parametrize(
    "overrides",
    [
        ("kdci=backdoor", "kdci.adjustment.fusion=linear"),
        ("kdci=backdoor", "kdci.adjustment.attention=random"),
        ("kdci=random_attention", "kdci.adjustment.prior=uniform"),
        ("kdci=weighting", "kdci.dictionary.prototypes=random"),
        ("kdci=none", "kdci/adjustment=weighting"),
    ],
)
def test_a_name_of_ours_leaves_the_options_of_its_form(overrides: tuple[str, ...]) -> None:
    check(plain(*overrides))


def test_every_name_of_ours_stands_for_something() -> None:
    names = {path.stem for path in (CONF / "kdci").glob("*.yaml")} - {"none"}
    assert names == {*_FORMS}
    for name in names:
        kdci = check(plain(f"kdci={name}")).kdci
        assert kdci is not None
        assert kdci.name == name


EARLY = ("dataset=digits", "substitution.mode=online")


def test_an_early_dictionary_that_is_kept_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    check(plain(*EARLY, "baseline=dafl"))
    (message,) = caplog.messages
    assert "made of one round's images and kept" in message
    assert "substitution.warmup_rounds=0" in message
    assert "kdci.refresh_every=N" in message


@pytest.mark.parametrize(
    "options",
    [
        ("baseline=dafl", "kdci=none"),
        ("baseline=dafl", "kdci.refresh_every=5"),
        ("baseline=dafl", "substitution.warmup_rounds=20"),
        ("baseline=dafl", "substitution.mode=replay"),
        ("baseline=dafl", "task=teacher"),
        ("baseline=dfnd",),
    ],
)
def test_another_dictionary_is_not_mentioned(
    options: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    check(plain(*EARLY, *options))
    assert caplog.messages == []


LISTED = {"_target_": f"{SCHEDULER}OneCycleLR", "total_steps": 10}


@pytest.mark.parametrize(
    ("overrides", "num_groups"),
    [
        (("kdci=none",), 1),
        (("kdci=backdoor",), 2),
        (("kdci=backdoor", "kdci.adjustment.attention=cosine"), 2),
        (
            (
                "kdci=backdoor",
                "kdci.adjustment.attention=cosine",
                "kdci.adjustment.projection=identity",
            ),
            1,
        ),
    ],
)
def test_a_compensation_that_learns_is_a_second_parameter_group(
    overrides: tuple[str, ...], num_groups: int
) -> None:
    config = plain(*overrides, EPOCHWISE)
    config["distill"]["scheduler"] = LISTED | {"max_lr": [0.1] * num_groups}
    check(config)
    config["distill"]["scheduler"] = LISTED | {"max_lr": [0.1] * (3 - num_groups)}
    message = complaint(config)
    assert message.startswith("Cannot build 'distill.scheduler'")
    assert ("with 2 parameter groups" in message) == (num_groups == 2)


def test_a_companion_has_no_compensation() -> None:
    config = plain("baseline=deepinv", "kdci=backdoor")
    config["distill"]["scheduler"] = LISTED | {"max_lr": [0.1, 0.1], "total_steps": 10**6}
    assert "Cannot build 'distill.scheduler'" in complaint(config)
    config["substitution"]["mode"] = "online"
    check(config)


def test_every_optimiser_of_a_baseline_is_tried() -> None:
    config = plain("baseline=cmi")
    config["baseline"]["head_optimizer"]["lr"] = -1
    assert "Cannot build 'baseline.head_optimizer'" in complaint(config)
    config = plain("baseline=mosaickd")
    config["baseline"]["discriminator"]["base_width"] = -1
    assert "Cannot build 'baseline.discriminator'" in complaint(config)


class Good(Baseline):
    reads_pool: ClassVar[bool] = True

    def __init__(self, *, teacher: Any, spec: Any, pool: Any, optimizer: Any = None) -> None:
        super().__init__(teacher=teacher, spec=spec)

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        return {}

    def sample(self, n: int) -> Tensor:
        return torch.zeros(n)


class NoSample(Baseline):
    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        return {}


class LonelyRefresh(Good):
    def refresh(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {}


class GreedySample(Good):
    def sample(self, n: int, device: str) -> Tensor:  # type: ignore[override]
        return torch.zeros(n)


class SampleIsNoMethod(Good):
    sample: Any = 3


class NoTeacher(Good):
    def __init__(self, *, spec: Any, pool: Any) -> None:
        super().__init__(teacher=None, spec=spec, pool=pool)


class NoSpec(Good):
    def __init__(self, *, teacher: Any, pool: Any) -> None:
        super().__init__(teacher=teacher, spec=None, pool=pool)


class NoPool(Good):
    def __init__(self, *, teacher: Any, spec: Any) -> None:
        super().__init__(teacher=teacher, spec=spec, pool=None)


class UnreadPool(Good):
    reads_pool: ClassVar[bool] = False


class UnreadableHint(Good):
    def __init__(self, *, teacher: Any, spec: Any, pool: Any, x: "Nowhere") -> None:  # type: ignore[name-defined] # noqa: F821
        super().__init__(teacher=teacher, spec=spec, pool=pool)


def define_in(monkeypatch: pytest.MonkeyPatch, module: ModuleType, made: type) -> None:
    """As if the class had been written in a module of ours."""
    monkeypatch.setattr(module, made.__name__, made, raising=False)
    monkeypatch.setattr(made, "__module__", module.__name__)


def with_class(monkeypatch: pytest.MonkeyPatch, made: type, **arguments: Any) -> dict[str, Any]:
    define_in(monkeypatch, dafl, made)
    return with_(("baseline", {"_target_": f"src.baseline.dafl.{made.__name__}", **arguments}))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (NoSample, "the class is abstract, it must define `sample`"),
        (LonelyRefresh, "its method `refresh(self, student)`, but got `refresh(self)"),
        (GreedySample, "its method `sample(self, n)`, but got `sample(self, n: int, device: str)"),
        (SampleIsNoMethod, "its method `sample(self, n)`, but got 3"),
        (NoTeacher, "its constructor must take `teacher`"),
        (NoSpec, "its constructor must take `spec`"),
        (NoPool, "its constructor must take `pool`"),
        (UnreadPool, "the class needs reads_pool = True"),
    ],
)
def test_a_class_that_is_no_baseline_is_named_before_anything_is_built(
    made: type, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = complaint(with_class(monkeypatch, made))
    assert expected in message
    assert made.__name__ in message


def test_a_baseline_of_ones_own_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    check(with_class(monkeypatch, Good))
    check(with_class(monkeypatch, UnreadableHint, x="anything"))


def test_an_optimiser_is_tried_where_no_hint_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": -1}
    message = complaint(with_class(monkeypatch, Good, optimizer=node))
    assert "Invalid learning rate: -1" in message


class ReadsWeights(Classifier):
    head_name = "fc"

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(int(torch.ones(1).item()), num_classes)

    def embed(self, images: Tensor) -> Tensor:
        return images


class NoHead(Classifier):
    head_name = "fc"

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()

    def embed(self, images: Tensor) -> Tensor:
        return images


def test_a_network_that_needs_memory_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    define_in(monkeypatch, convnet, ReadsWeights)
    check(with_(("teacher.network", {"_target_": "src.network.convnet.ReadsWeights"})))


def test_a_network_without_its_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    define_in(monkeypatch, convnet, NoHead)
    message = complaint(with_(("teacher.network", {"_target_": "src.network.convnet.NoHead"})))
    assert "Cannot build 'teacher.network'" in message
    assert "no attribute 'head'" in message


def test_a_module_that_cannot_be_imported_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import src.baseline

    (tmp_path / "broken.py").write_text("def broken(:\n")
    monkeypatch.setattr(src.baseline, "__path__", [*src.baseline.__path__, str(tmp_path)])
    message = complaint(with_(("baseline._target_", "src.baseline.broken.Broken")))
    assert message.startswith("Cannot import 'baseline._target_=src.baseline.broken.Broken'")
    assert "broken.py, line 1" in message


WEIRD: list[Any] = [None, -1, 10**30, "a\nb", True, [], {}, {1: 2}, b"x", {"name": "none"}]
WEIRD += [{"_target_": target} for target in (None, "src.", "src..x", "torch.optim.SGD")]


@pytest.mark.parametrize("value", WEIRD, ids=repr)
@pytest.mark.parametrize(
    "key", ["kdci", "pool", "baseline", "baseline.generator", "distill.scheduler", "seed"]
)
def test_no_mapping_is_answered_by_another_error(key: str, value: Any) -> None:
    message = ""
    try:
        check(with_((key, value)))
    except UserError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    "config", [{}, {"kdci": {}}, {1: 2}, {"kdci": {"name": "none"}}, [], None]
)
def test_an_incomplete_configuration_is_answered_in_one_line(config: Any) -> None:
    assert complaint(config)


def test_the_check_leaves_no_trace() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    check(plain())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_check_is_fast() -> None:
    config = plain("baseline=mosaickd", "dataset=imagenet")
    check(config)  # imports what is named
    start = time.process_time()
    check(config)
    assert time.process_time() - start < 0.5


def test_a_method_may_ask_for_a_certain_generator() -> None:
    target = "baseline.generator._target_=src.network.generator.DeepGenerator"
    told = r"DeepGenerator': expected .*, a subclass of src\.network\.generator\.Generator"
    with pytest.raises(UserError, match=told):
        check(plain("baseline=spaceshipnet", target))


def test_a_factory_is_the_same_whether_it_says_so_or_not() -> None:
    nodes = ("distill__optimizer", "distill__scheduler", "teacher__fit__optimizer")
    for said in (True, False):
        found = check(changed(**{f"{node}___partial_": said for node in nodes}))
        assert found == check(plain())
    unsaid = copy.deepcopy(plain())
    for node in (*unsaid["distill"].values(), unsaid["teacher"]["fit"]["optimizer"]):
        if isinstance(node, dict):
            del node["_partial_"]
    assert check(unsaid) == check(plain())


def test_a_teacher_is_not_made_again_by_force() -> None:
    message = complaint(changed(force=True, task="teacher"))
    assert "force=true runs a finished run again, but task=teacher reuses" in message
    assert "another teacher.seed" in message
    check(changed(force=True))


def test_a_precision_is_told_of_the_machine_s_own() -> None:
    message = complaint(changed(trainer__precision="bf16_mixed"))
    assert "expected '32-true' or 'bf16-mixed' or 'auto', but got 'bf16_mixed'" in message


def test_another_class_needs_the_whole_node() -> None:
    message = complaint(changed(distill__optimizer___target_="torch.optim.Adam"))
    assert message == (
        "Unknown configuration key 'distill.optimizer.momentum', which torch.optim.Adam does not "
        "take; to replace the whole node, options and all, give "
        "'distill.optimizer={_target_: torch.optim.Adam, _partial_: true, ...}', or in a file "
        "'tables: {own: {optimizer: {_target_: torch.optim.Adam, _partial_: true, ...}}}' and "
        "'distill: {optimizer: ${tables.own.optimizer}}'"
    )
    message = complaint(changed(teacher__fit__optimizer___target_="torch.optim.Adam"))
    assert message.endswith(" and 'teacher: {fit: {optimizer: ${tables.own.optimizer}}}'")
    message = complaint(changed(baseline__optimizer___target_="torch.optim.SGD"))
    assert message.endswith(" and 'baseline: {optimizer: ${tables.own.optimizer}}'")


def test_a_file_replaces_a_node_as_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/own.yaml").write_text(
        "# @package _global_\n"
        "tables: {own: {optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 0.1}}}\n"
        "distill: {optimizer: '${tables.own.optimizer}'}\n"
    )
    found = check(plain("experiments=own", f"hydra.searchpath=[file://{tmp_path}]"))
    assert found.distill.optimizer == {
        "_target_": "torch.optim.Adam",
        "_partial_": True,
        "lr": 0.1,
    }


@pytest.mark.parametrize("budget", ["laptop", "smoke"])
@pytest.mark.parametrize(("key", "value"), [("eta_min", 0.05), ("T_max", 7)])
def test_a_key_alone_does_not_replace_a_schedule(budget: str, key: str, value: float) -> None:
    message = complaint(plain(f"budget={budget}", f"++distill.scheduler={{{key}:{value}}}"))
    assert message.startswith("Missing configuration key 'distill.scheduler._target_': the class")
    assert f"give the whole node, or '++tables.cosine.{key}=...' where" in message
    found = check(plain(f"budget={budget}", f"++tables.cosine.{key}={value}"))
    assert found.distill.scheduler is not None
    assert found.distill.scheduler[key] == value


def test_a_certain_generator_is_asked_for_by_its_class() -> None:
    key = "baseline.generator._target_=src.network.generator"
    message = complaint(plain("baseline=nayer", f"{key}.DeepGenerator"))
    assert message.endswith(
        "expected an image generator, a subclass of src.network.generator.Generator, but got "
        "DeepGenerator; choose that class or one derived from it"
    )
    check(plain("baseline=nayer", f"{key}.Generator"))
