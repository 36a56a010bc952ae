import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from src.common.package import ROOT
from src.config import arguments, composition, option_files, unknown_key
from tests.compose import composed


def failure(*overrides: str) -> Exception:
    with pytest.raises(Exception, match=r".") as caught:
        composed(*overrides)
    return caught.value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("kdci=backdor", "Unknown option 'kdci=backdor'; did you mean 'backdoor'? (one of: "),
        ("dataset=cifra10", "Unknown option 'dataset=cifra10'; did you mean 'cifar10'? (one of: "),
        ("student=resnet19", "Unknown option 'student=resnet19'; did you mean 'resnet18'?"),
        ("kdci/adjustment=x", "Unknown option 'kdci/adjustment=x' (one of: compensation"),
        ("kdci.attention=dot", "did you mean 'kdci.adjustment.attention'?"),
        ("kdci.n=3", "Unknown configuration key 'kdci.n'; did you mean 'kdci.N'?"),
        ("distil.epochs=3", "Unknown configuration key 'distil.epochs'; did you mean 'distill.ep"),
        ("baseline.batch_szie=3", "'baseline.batch_szie'; did you mean 'baseline.batch_size'?"),
        ("zzzzzz=3", "Unknown configuration key 'zzzzzz'"),
        ("teacher=wrn17", "did you mean 'wrn16_1'?"),
        ("logger.wandb.mode=offline", "'logger.wandb.mode'; logger=wandb would have it"),
        ("baseline.local_scale=[1]", "'baseline.local_scale'; baseline=cmi would have it"),
        ("lr=1", "'lr'; did you mean 'distill.optimizer.lr' or 'baseline.optimizer.lr' or 'teach"),
        ("pool.root=my_images", "dataset@pool=folder_pool and dataset@pool=image_folder and"),
        ("dataset=my/images", "; a path goes elsewhere: dataset=image_folder dataset.root='my/im"),
        ("teacher=w/a.pth", "; a path goes elsewhere: teacher=NETWORK teacher.checkpoint='w/a.p"),
        ("dataset.size=48", "'dataset.size'; did you mean 'dataset.image_size'?"),
        ("dataset=controlled", "'dataset=controlled', which has no setting (one of: cifar10, "),
        ("dataset=controlled", "; a pool is given as dataset@pool=controlled, a data set of y"),
        ("setting=digit", "Unknown option 'setting=digit'; did you mean 'digits'?"),
        ("method=cmi", "'method'; did you mean 'baseline'?"),
        ("trainer.gpus=2", "'trainer.gpus'; did you mean 'trainer.devices'?"),
        ("teacher.fit.optimizer={a:1}", "key 'teacher.fit.optimizer.a'; torch.optim.SGD does not"),
        ("distill.optimizer.a.b=1", "Unknown configuration key 'distill.optimizer.a.b'"),
    ],
)
def test_hydra_s_complaints_name_the_nearest(override: str, expected: str) -> None:
    message = composition.explain(failure(override), [override])
    assert expected in message
    assert "\n" not in message


def test_the_nearest_key_is_sought_in_the_chosen_groups() -> None:
    overrides = ["baseline=dfnd", "baseline.num_slect=3"]
    message = composition.explain(failure(*overrides), overrides)
    assert message.endswith("did you mean 'baseline.num_select'?")


COSINE = "budget=laptop"
BY_NAME = "'distill.scheduler' is the interpolation ${tables.cosine}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["kdci=weighting", "kdci.adjustment.attention=dot"], "; kdci=backdoor would have it"),
        (["kdci.adjustment.gamma=0"], "; kdci=weighting would have it"),
        (
            ["student.network.depth=3"],
            "; student=resnet18 and student=resnet18_imagenet and student=resnet34 and 9 others "
            "would have it",
        ),
        (
            ["kdci=weighting", "kdci.adjustment.strength=1"],
            "; kdci=backdoor and kdci=prior and kdci=standardisation would have it",
        ),
        (
            ["kdci.name=mine", "kdci/adjustment=weighting", "kdci.adjustment.attention=dot"],
            "; kdci/adjustment=compensation would have it",
        ),
        (["distill.optimizer.nesterov=true"], "; give '+distill.optimizer.nesterov=...'"),
        (["distill.optimizer={nesterov:true}"], "; give '+distill.optimizer.nesterov=...'"),
        (["distill.optimizer.nesterow=1"], "; did you mean '+distill.optimizer.nesterov'?"),
        (["distill.optimizer.momentun=1"], "; did you mean 'distill.optimizer.momentum'?"),
        (["distill.optimizer.params=1"], "; torch.optim.SGD does not take it"),
        (["~distill.optimizer.nesterov"], "key 'distill.optimizer.nesterov'"),
        (
            ["kdci.adjustment.momentum=0"],
            "; src.kdci.compensation.BackdoorCompensation does not take it",
        ),
        (["baseline.learn_tau=true"], "; src.baseline.dafl.DAFL does not take it"),
        (["baseline.num_clusters=3"], "; src.baseline.dafl.DAFL does not take it"),
        (["baseline.latent_dim=3"], "; did you mean 'baseline.generator.latent_dim'?"),
        (["baseline.optimiser.lr=1"], "; did you mean 'baseline.optimizer.lr'?"),
        (["kdci.dictionary.seed=3"], "; src.kdci.clustering.KMeans does not take it"),
        (
            [COSINE, "distill.scheduler.eta_min=0.05"],
            f": {BY_NAME}; give '+tables.cosine.eta_min=...'",
        ),
        ([COSINE, "distill.scheduler.T_max=5"], f": {BY_NAME}; give 'tables.cosine.T_max=...'"),
        (
            [COSINE, "distill.scheduler.etamin=5"],
            f": {BY_NAME}; did you mean '+tables.cosine.eta_min'?",
        ),
        (
            ["budget=smoke", "distill.scheduler.a=5"],
            f": {BY_NAME}; torch.optim.lr_scheduler.CosineAnnealingLR does not take it",
        ),
        (
            [
                "baseline=dafl",
                "dataset=cifar10",
                "budget=paper",
                "distill.scheduler.last_epoch=-1",
            ],
            "${tables.resnet34-resnet18.scheduler}; give "
            "'+tables.resnet34-resnet18.scheduler.last_epoch=...'",
        ),
    ],
)
def test_the_key_of_a_node_is_told_of_the_node_s_class(
    overrides: list[str], expected: str
) -> None:
    message = composition.explain(failure(*overrides), overrides)
    assert message.startswith("Unknown configuration key '")
    assert message.endswith(expected)
    cure = re.search(r"; give '(.*)\.\.\.'$", message)
    if cure:
        *others, last = overrides
        value = "true" if "true" in last else last.partition("=")[2]
        composed(*others, f"{cure[1]}{value}")


ADAM = "+distill.optimizer={_target_: torch.optim.Adam, _partial_: true, lr: 0.1}"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("distill.optimizer.amsgrad", "; give '+distill.optimizer.amsgrad=...'"),
        ("distill.optimizer.momentum", "; torch.optim.Adam does not take it"),
        ("distill.optimizer.lr.x", "; did you mean 'distill.optimizer.lr'?"),
    ],
)
def test_a_node_that_the_command_line_replaces_is_judged_by_its_own_class(
    key: str, expected: str
) -> None:
    overrides = ["~distill.optimizer", ADAM, f"{key}=1"]
    assert composition.explain(failure(*overrides), overrides).endswith(expected)


@pytest.mark.parametrize("content", ["a: [", "defaults: 5", "\xff"])
def test_a_hint_passes_over_files_that_cannot_be_read(content: str, tmp_path: Path) -> None:
    (tmp_path / "conf/kdci").mkdir(parents=True)
    (tmp_path / "conf/kdci/broken.yaml").write_text(content, encoding="latin-1")
    path = f"hydra.searchpath=['file://{ROOT}','file://{tmp_path / 'conf'}']"
    overrides = [path, "kdci.adjustment.gamma=0"]
    message = composition.explain(failure(*overrides), overrides)
    assert message.endswith("; kdci=weighting would have it")


CLUSTERING = """
from src.kdci.clustering import KMeans


class Mine(KMeans):
    def __init__(self, *, closeness: float = 1.0, **options):
        super().__init__(**options)
        self.closeness = closeness
"""


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Somebody's package with a clustering; what chooses it."""
    (tmp_path / "guest/conf/kdci/dictionary").mkdir(parents=True)
    (tmp_path / "guest/__init__.py").write_text(CLUSTERING)
    own = tmp_path / "guest/conf/kdci/dictionary/own.yaml"
    own.write_text("_target_: guest.Mine\nN: ${kdci.N}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = f"hydra.searchpath=['file://{ROOT}','file://{tmp_path / 'guest/conf'}']"
    yield ["kdci/dictionary=own", path]
    sys.modules.pop("guest", None)


@pytest.mark.parametrize("key", ["space", "closeness"])
def test_what_a_clustering_of_somebody_else_s_takes_is_added(guest: list[str], key: str) -> None:
    overrides = ["plugins=[guest]", *guest, f"kdci.dictionary.{key}=1"]
    message = composition.explain(failure(*overrides), overrides)
    name = f"kdci.dictionary.{key}"
    assert message == f"Unknown configuration key '{name}'; give '+{name}=...'"


@pytest.mark.parametrize("plugins", ["plugins=[]", "plugins=[os]", "plugins=guest"])
def test_no_hint_imports_what_may_not_run(guest: list[str], plugins: str) -> None:
    given = [*guest, "kdci.dictionary.space=1"]
    message = composition.explain(failure(*given), [plugins, *given])
    assert message.endswith("'kdci.dictionary.space'; kdci/dictionary=kmeans would have it")
    assert "guest" not in sys.modules


def test_a_value_of_another_kind_is_named() -> None:
    overrides = ["baseline=cmi", "baseline.local_scale={a:1}"]
    message = composition.explain(failure(*overrides), overrides)
    assert message == "Wrong value of 'baseline.local_scale': expected a list, but got {a:1}"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("hydra.job.chdir=maybe", "is not a valid bool (type str)"),
        ("hydra.sweeper.max_batch_size=x", "of type 'str' could not be converted to Integer"),
    ],
)
def test_a_wrong_value_of_hydra_s_own_is_of_its_kind(override: str, expected: str) -> None:
    key, _, value = override.partition("=")
    message = composition.explain(failure(override), [override])
    assert message == f"Wrong value of '{key}': Value '{value}' {expected}"


def test_other_complaints_are_one_line_without_hydra_s_advice() -> None:
    error = ValueError("Something\n  is wrong\nSet the environment variable HYDRA_FULL_ERROR=1")
    assert composition.explain(error, []) == "Something is wrong"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program's folder with a small configuration of its own."""
    (tmp_path / "conf" / "kdci").mkdir(parents=True)
    (tmp_path / "conf" / "kdci" / "none.yaml").write_text("name: none\n")
    (tmp_path / "conf" / "config.yaml").write_text(
        "defaults:\n- _self_\n- kdci: none\n- optional experiments: null\nseed: 1\n"
        f"hydra:\n  searchpath: ['file://{tmp_path}']\n"
    )
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(option_files, "ROOT", tmp_path)
    monkeypatch.setattr(arguments, "ROOT", tmp_path)
    for module in (unknown_key, arguments):
        monkeypatch.setattr(module, "CONF", tmp_path / "conf")
    return tmp_path


def hydra_s_line(folder: Path, *overrides: str) -> str:
    """How the program explains what Hydra says of the overrides."""
    with (
        pytest.raises(composition.COMPOSITION_ERRORS) as caught,
        initialize_config_dir(str(folder / "conf"), version_base="1.3"),
    ):
        compose("config", list(overrides))
    message = composition.explain(caught.value, overrides)
    assert "\n" not in message
    return message


HEADER = b"# @package _global_\n"
BROKEN: list[tuple[bytes, str]] = [
    (b"seed:\n\ta: 3\n", "line 3, column 1: while scanning for the next token, found character"),
    (b"seed: [1, 2\n", "line 3, column 1: while parsing a flow sequence, expected ',' or ']'"),
    (b"a: \xe9\nseed: \xff\n", "line 2, column 4: expected UTF-8, but got the byte 0xe9"),
    (b"seed: 1\nkdci: \x00\n", "line 3, column 7: character #x0000"),
    (b"seed: *nowhere\n", "line 2, column 7: found undefined alias 'nowhere'"),
    (b"seed: 1\n---\nseed: 2\n", "line 3, column 1: expected a single document"),
    (b"- 1\n- 2\n", "expected keys and values (`key: value`), but got a list"),
]


@pytest.mark.parametrize(("content", "expected"), BROKEN)
@pytest.mark.parametrize("is_chosen", [True, False])
def test_a_broken_file_is_named_with_its_line(
    content: bytes, expected: str, is_chosen: bool, folder: Path
) -> None:
    name = "experiments/x.yaml" if is_chosen else "conf/kdci/none.yaml"
    (folder / name).write_bytes(HEADER + content)
    message = hydra_s_line(folder, *(["experiments=x"] if is_chosen else []))
    assert expected in message
    assert name.removeprefix("conf/") in message


def test_a_key_that_stands_twice_is_named(folder: Path) -> None:
    (folder / "experiments" / "x.yaml").write_bytes(HEADER + b"seed: 1\nseed: 2\n")
    message = hydra_s_line(folder, "experiments=x")
    assert "'experiments/x.yaml', line 3, column 1: while constructing a mapping" in message
    assert "found duplicate key seed" in message


def test_a_hint_is_given_although_a_file_is_broken(folder: Path) -> None:
    (folder / "experiments" / "x.yaml").write_text("seed: [")
    error = failure("sede=1")
    overrides = ["experiments=x", "sede=1"]
    assert composition.explain(error, overrides).endswith("'sede'; did you mean 'seed'?")
    (folder / "conf" / "config.yaml").write_text("seed: [")
    assert composition.explain(error, overrides) == "Unknown configuration key 'sede'"


def test_a_hint_knows_the_options_of_the_user_s_own_folder(tmp_path: Path) -> None:
    (tmp_path / "kdci").mkdir()
    (tmp_path / "kdci" / "mine.yaml").write_text("name: mine\nsharpness: 1\n")
    overrides = [f"--config-dir={tmp_path}", "kdci=mine", "kdci.sharpnes=2"]
    message = composition.explain(failure("kdci.sharpnes=2"), overrides)
    assert message.endswith("'kdci.sharpnes'; did you mean 'kdci.sharpness'?")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=[1,2", "Cannot read the argument 'seed=[1,2' (no viable alternative"),
        ("seed", "Cannot read the argument 'seed' (Error parsing override"),
        ("~distil", "Unknown configuration key 'distil'; did you mean 'distill'?"),
        ("~kdci.N=17", "The value of 'kdci.N' is 16 and not 17."),
    ],
)
def test_what_hydra_cannot_read_is_shown(override: str, expected: str) -> None:
    message = composition.explain(failure(override), [override])
    assert expected in message
    assert "https://" not in message


def test_an_interpolation_is_named_with_its_key() -> None:
    from omegaconf import OmegaConf

    config: Any = OmegaConf.create({"a": {"b": "${nowhere}"}})
    with pytest.raises(composition.COMPOSITION_ERRORS) as caught:
        OmegaConf.to_container(config, resolve=True)
    line = composition.explain(caught.value, [])
    assert line == "Interpolation key 'nowhere' not found (in 'a.b')"


def test_bytes_of_an_unknown_file_are_told_without_its_name(folder: Path) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"\xff".decode()
    assert "expected UTF-8" in composition.explain(caught.value, [])


@pytest.mark.parametrize("header", ["@package", "@package a b", "@ package _global_", "@"])
@pytest.mark.parametrize("name", ["experiments/x.yaml", "conf/kdci/none.yaml"])
def test_a_header_without_key_and_value_is_named_with_its_file(
    header: str, name: str, folder: Path
) -> None:
    (folder / "experiments" / "a.yaml").write_text("# @package _global_\nseed: 1\n")
    (folder / name).write_text(f"\n# {header}\nseed: 1\n")
    with (
        pytest.raises(ValueError, match="@") as caught,
        initialize_config_dir(str(folder / "conf"), version_base="1.3"),
    ):
        compose("config", ["experiments=x"] if "experiments" in name else [])
    assert composition.is_about_composition(caught.value)
    message = composition.explain(caught.value, [])
    assert message == (
        f"Wrong header of '{name}': expected `# @package _global_` on top, but got '# {header}'"
    )


@pytest.mark.parametrize(
    ("x", "y", "circle"),
    [
        ("/experiments/x", "", "experiments/x"),
        ("/experiments/y", "/experiments/x", "experiments/x"),
        ("/experiments/y", "/experiments/y", "experiments/y"),
    ],
)
def test_options_that_build_on_themselves_are_named(
    x: str, y: str, circle: str, folder: Path
) -> None:
    for name, other in (("x", x), ("y", y)):
        path = folder / "experiments" / f"{name}.yaml"
        path.write_text(f"# @package _global_\ndefaults: [{other}]\n")
    with (
        pytest.raises(RecursionError) as caught,
        initialize_config_dir(str(folder / "conf"), version_base="1.3"),
    ):
        compose("config", ["experiments=x"])
    assert composition.is_about_composition(caught.value)
    message = composition.explain(caught.value, [])
    assert message.startswith(f"Cannot compose '{circle}': its defaults lead back to it; ")


def test_other_errors_are_not_about_the_composition() -> None:
    assert not composition.is_about_composition(ValueError("Too many cooks"))
    assert not composition.is_about_composition(RecursionError("maximum recursion depth"))
    assert not composition.is_about_composition(KeyError("Too many components in '@package a b'"))
