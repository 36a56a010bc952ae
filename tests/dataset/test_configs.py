"""Every file of the group, so that a new data set is tested the moment it has one."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from src.common.errors import UserError
from src.dataset.contract import Dataset, Pool

FOLDER = Path(__file__).parents[2] / "conf" / "dataset"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name, data, cache="cache"):
    paths = {"data": str(data), "cache": str(cache)}
    dataset, pool = (OmegaConf.load(FOLDER / f"{each}.yaml") for each in ("digits", name))
    return OmegaConf.create({"paths": paths, "dataset": dataset, "pool": pool})


@pytest.mark.parametrize("name", NAMES)
def test_the_keys_are_the_arguments_of_the_constructor(name):
    config = OmegaConf.load(FOLDER / f"{name}.yaml")
    arguments = inspect.signature(get_class(config._target_)).parameters
    assert set(config) - {"_target_"} == set(arguments)


@pytest.mark.parametrize("name", NAMES)
def test_construction_touches_no_file(name, tmp_path):
    data = instantiate(load(name, tmp_path / "nowhere", tmp_path / "cache").pool)
    assert isinstance(data, Pool)
    assert data.name == name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "root" in OmegaConf.load(FOLDER / f"{n}.yaml")]
)
def test_a_missing_folder_is_one_clear_line(name, tmp_path):
    config = load(name, tmp_path / "nowhere", tmp_path / "cache").pool
    data = instantiate(config)
    actions = [data.fingerprint, lambda: data.unlabeled(8)]
    if isinstance(data, Dataset):
        actions += [data.train, data.test]
    for action in actions:
        with pytest.raises(UserError, match=r"nowhere.*it does not exist") as caught:
            action()
        assert "\n" not in str(caught.value)
