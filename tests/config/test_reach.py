import os
from pathlib import Path

import pytest

from src.common import package
from src.common.errors import UserError
from src.config.node import refuse_foreign_targets
from src.config.reach import refuse_hydra_settings


def test_our_experiments_set_no_more_than_the_points_of_a_sweep() -> None:
    refuse_hydra_settings([package.ROOT / "experiments"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hydra:\n  job:\n    name: mine\n", "the key 'hydra'"),
        ("hydra:\n  sweeper:\n    max_batch_size: 3\n", "the key 'hydra'"),
        ("hydra:\n  sweeper:\n    params: {}\n  verbose: true\n", "the key 'hydra'"),
        ("hydra: 3\n", "the key 'hydra'"),
        ("defaults:\n  - /../../elsewhere/mine\n", "../elsewhere/mine"),
        ("a: {}\nhydra:\n  sweeper:\n    params: ${a}\n", "hydra.sweeper.params: ${a}"),
        (
            "hydra:\n  sweeper:\n    params:\n      ++hydra.verbose: a\n",
            "a point's ++hydra.verbose",
        ),
        ("hydra:\n  sweeper:\n    params:\n      hydra/help: a\n", "a point's hydra/help"),
        ("# @package hydra\n- verbose\n", "@package hydra"),
        ("defaults:\n  - override /hydra/job_logging: disabled\n", "job_logging"),
        ("defaults:\n  - /paths@hydra.help: default\n", "hydra.help"),
        ("# @package hydra.job\nname: mine\n", "@package hydra.job"),
        ('"\\x68ydra":\n  verbose: true\n', "the key 'hydra'"),
        # What another reader of YAML refuses.
        ("hydra:\n  verbose: true\nwhen: 2024-13-45\n", "the key 'hydra'"),
        ("x: &x\n  hydra: {verbose: true}\n<<: *x\n", "the key 'hydra'"),
    ],
)
def test_a_file_that_reaches_hydra_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "budget" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine.yaml.*hydra.sweeper.params, but got") as caught:
        refuse_hydra_settings([tmp_path])
    assert said in str(caught.value)


def test_points_of_a_sweep_and_all_else_may_be_set(tmp_path: Path) -> None:
    text = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      seed: 0,1\nkdci:\n  N: 3\n"
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "broken.yaml").write_text("a: [")  # said where it is chosen
    (tmp_path / "number.yaml").write_text("defaults: 5")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    refuse_hydra_settings([tmp_path])


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "elsewhere").mkdir()
    refuse_hydra_settings([tmp_path / "conf"])
    (tmp_path / "conf/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"conf/sub.: expected option files in folders"):
        refuse_hydra_settings([tmp_path / "conf"])


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_would_never_end_or_say_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / "mine.yaml")
    else:
        (tmp_path / "mine.yaml").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"mine\.yaml': it is no regular file; remove it"):
        refuse_hydra_settings([tmp_path])


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a/${x}/b"])
def test_a_text_that_is_still_to_be_evaluated_is_refused(value: str) -> None:
    node = {"root": "a$b", "names": ["plain", {"deep": value}]}
    with pytest.raises(UserError, match=r"Refused 'dataset.names.1.deep=.*interpolation"):
        refuse_foreign_targets("dataset", node)
    refuse_foreign_targets("dataset", {"root": "a$b{c}"})
