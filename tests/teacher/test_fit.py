import argparse
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import DenseNet

from src.network.convnet import ConvNet
from src.network.outside import OutsideNetwork
from src.network.wide_resnet import WideResNet
from src.teacher.checkpoint import load_into
from src.teacher.fit import fit
from src.teacher.read import read
from tests.teacher.weights import Form, State, below, network, other, refused, written
from tests.toys import states_equal


@pytest.fixture
def trained() -> ConvNet:
    """With counters that are not as they were made."""
    made = network()
    made(torch.randn(2, 3, 8, 8))
    return made


def cast(state: State, dtype: torch.dtype) -> State:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}


def lightning(state: State) -> dict[str, Any]:
    return {
        "epoch": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x"}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1, "net": "convnet", "widths": [4, 8], "warm": None},
    }


WRAPPERS = (
    *("model", "net", "state_dict", "model_state_dict", "model_state", "network", "teacher"),
    *("student", "state", "weights", "params", "ema", "state_dict_ema", "model_ema"),
)
PREFIXES = (
    *("module.", "module.module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."),
    *("model.", "net.", "model._orig_mod.", "module.model.", "lit.core.net.", "1."),
)
FORMS: dict[str, Form] = {
    "bare": lambda state: state,
    "data_parallel": lambda state: {"state_dict": below("module.", state)},
    "kuangliu": lambda state: {"net": below("module.", state), "acc": 93.2, "epoch": 120},
    "two_levels": lambda state: {"model": {"state_dict": state}, "ema": {"decay": 0.9}},
    "numpy_float64": lambda state: {"state_dict": state, "best_acc1": np.float64(93.2)},
    "numpy_float32": lambda state: {"state_dict": state, "best_acc1": np.float32(93.2)},
    "numpy_int64": lambda state: {"state_dict": state, "epoch": np.int64(7)},
    "numpy_values": lambda state: {name: value.numpy() for name, value in state.items()},
    "tensor_accuracy": lambda state: {"state_dict": state, "best_acc1": torch.tensor(93.2)},
    "accuracy_beside": lambda state: {**state, "epoch": 3, "best_acc1": torch.tensor(93.2)},
    "lightning": lambda state: lightning(below("model.", state)),
    "tuple": lambda state: (state, 3),
    "thop": lambda state: {
        **state,
        "total_ops": torch.zeros(1),
        "stages.0.total_params": torch.zeros(1),
    },
    "requires_grad": lambda state: OrderedDict(
        (k, nn.Parameter(v) if v.is_floating_point() else v) for k, v in state.items()
    ),
    "channels_last": lambda state: {
        k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in state.items()
    },
    "inner_wrappers": lambda state: {
        k.replace("stages.", "stages._orig_mod.module."): v for k, v in state.items()
    },
    "double": lambda state: cast(state, torch.float64),
    **{f"in_{w}": lambda state, w=w: {w: state, "epoch": 3} for w in WRAPPERS},
    **{f"below_{p}": lambda state, p=p: below(p, state) for p in PREFIXES},
}


@pytest.mark.parametrize("form", FORMS)
def test_what_training_programs_write_is_read(tmp_path: Path, trained: ConvNet, form: str) -> None:
    target = network()
    load_into(target, written(tmp_path / "c.pt", FORMS[form](trained.state_dict())))
    assert states_equal(target, trained)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_safetensors_have_the_same_prefixes(tmp_path: Path, trained: ConvNet, prefix: str) -> None:
    save_file(below(prefix, trained.state_dict()), tmp_path / "t.safetensors")
    target = network()
    load_into(target, tmp_path / "t.safetensors")
    assert states_equal(target, trained)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_evaluated_in_float32(
    tmp_path: Path, trained: ConvNet, dtype: torch.dtype
) -> None:
    target = network()
    load_into(target, written(tmp_path / "c.pt", cast(trained.state_dict(), dtype)))
    assert target.fc.weight.dtype == torch.float32
    assert torch.equal(target.fc.weight, trained.fc.weight.to(dtype).float())


def test_counters_of_training_may_be_absent(tmp_path: Path, trained: ConvNet) -> None:
    state = trained.state_dict()
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    path = written(tmp_path / "c.pt", {k: v for k, v in state.items() if k not in counters})
    target = network()
    load_into(target, path)
    found = target.state_dict()
    assert all(torch.equal(found[key], state[key]) for key in state.keys() - counters)
    assert all(found[key] == 0 for key in counters)


def notes(tmp_path: Path, trained: ConvNet, content: Any) -> list[str]:
    """The lines on a file that holds the trained weights."""
    path = written(tmp_path / "c.pt", content)
    target = network()
    state, lines = fit(target, read(path), path)
    target.load_state_dict(state)
    assert states_equal(target, trained)
    assert all(str(path) in line and "\n" not in line for line in lines)
    return lines


@pytest.mark.parametrize("form", ["bare", "data_parallel", "thop", "in_ema", "tuple"])
def test_an_ordinary_file_needs_no_word(tmp_path: Path, trained: ConvNet, form: str) -> None:
    assert notes(tmp_path, trained, FORMS[form](trained.state_dict())) == []


def test_entries_of_other_modules_are_left_out_and_named(tmp_path: Path, trained: ConvNet) -> None:
    rest = {"val_acc_best.max_value": torch.tensor(1.0), "criterion.weight": torch.ones(4)}
    lightning_file = lightning({**below("net.", trained.state_dict()), **rest})
    (line,) = notes(tmp_path, trained, lightning_file)
    assert line.endswith("no part of the network: 'val_acc_best.max_value', 'criterion.weight'")
    (line,) = notes(tmp_path, trained, {**trained.state_dict(), **rest})
    assert line.endswith("no part of the network: 'val_acc_best.max_value', 'criterion.weight'")
    many = {f"memory.{index}": torch.ones(1) for index in range(10)}
    (line,) = notes(tmp_path, trained, {**below("net.", trained.state_dict()), **many})
    assert line.endswith("'memory.0', 'memory.1', 'memory.2', 'memory.3' and 6 more")


@pytest.mark.parametrize(
    ("plain", "average"), [("state_dict", "state_dict_ema"), ("model", "ema"), ("net", "swa_net")]
)
def test_plain_weights_come_before_their_average(
    tmp_path: Path, trained: ConvNet, plain: str, average: str
) -> None:
    state = trained.state_dict()
    (line,) = notes(tmp_path, trained, {average: other(state), plain: state})
    assert line.startswith(f"Took '{plain}' of")
    assert line.endswith(f"there is also '{average}'")


@pytest.mark.parametrize("plain", ["", "net."])
def test_plain_entries_come_before_averaged_ones_in_one_state_dict(
    tmp_path: Path, trained: ConvNet, plain: str
) -> None:
    state = trained.state_dict()
    both = {**below("ema_model.module.", other(state)), **below(plain, state)}
    assert notes(tmp_path, trained, both)[0].endswith("there is also 'ema_model'")


def test_a_teacher_comes_before_its_student(tmp_path: Path, trained: ConvNet) -> None:
    state = trained.state_dict()
    (line,) = notes(tmp_path, trained, {"student": other(state), "teacher": state})
    assert line.startswith("Took 'teacher'")
    inside = {**below("student.", other(state)), **below("teacher.", state)}
    assert notes(tmp_path, trained, inside)[0].startswith("Took 'teacher'")
    named = {"student_state_dict": other(state), "teacher_state_dict": state}
    assert notes(tmp_path, trained, named)[0].startswith("Took 'teacher_state_dict'")


def test_a_teacher_beside_a_plain_name_is_refused_by_name(
    tmp_path: Path, trained: ConvNet
) -> None:
    state = trained.state_dict()
    path = written(tmp_path / "c.pt", {"model": other(state), "teacher_state_dict": state})
    refused(path, "both 'model' and 'teacher_state_dict' fit the network")
    inside = {**below("model.", other(state)), **below("teacher_model.", state)}
    path = written(tmp_path / "c.pt", {"state_dict": inside})
    refused(path, r"both 'state_dict\.model' and 'state_dict\.teacher_model' fit the network")


@pytest.mark.parametrize(
    "name",
    [
        *("upgraded", "schedulefree_model", "model_with_gradients", "optimal", "optimized_model"),
        *("rescheduled", "upscaler_net", "gradcam_net"),
    ],
)
def test_a_part_of_a_word_hides_no_weights(tmp_path: Path, trained: ConvNet, name: str) -> None:
    assert notes(tmp_path, trained, {name: trained.state_dict(), "epoch": 3}) == []


@pytest.mark.parametrize(
    "name",
    [
        *("optimizer", "optimizer_states", "optimizerG", "optim_d", "Optimiser", "optim.g"),
        *("scheduler", "lr_schedulers", "lrScheduler", "sched", "scheduler_state", "scheduler2"),
        *("scaler", "grad_scaler", "GradScaler", "amp_scaler_state", "native_amp_scaling_state"),
        *("grad", "grads", "last_grads", "gradients", "momentum", "momentum_buffer"),
        *("callbacks", "loops", "hyper_parameters", "hyper_params"),
    ],
)
def test_what_training_keeps_beside_the_weights_does_not_compete(
    tmp_path: Path, trained: ConvNet, name: str
) -> None:
    state = trained.state_dict()
    assert notes(tmp_path, trained, {name: other(state), "mine": state}) == []


def test_a_densenet_is_read_under_its_published_names(tmp_path: Path) -> None:
    def made() -> OutsideNetwork:
        module = DenseNet(4, (2, 1), num_init_features=8, bn_size=2, num_classes=3)
        return OutsideNetwork(module, module.classifier, "densenet")

    trained, target = made(), made()
    old = {
        re.sub(r"(denselayer\d+\.[a-z]+)([12])\.", r"\1.\2.", name): value
        for name, value in trained.module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer2.norm.1.weight" in old
    load_into(target, written(tmp_path / "c.pt", old))
    assert states_equal(target, trained)


def test_weights_that_do_not_fit_do_not_compete(tmp_path: Path, trained: ConvNet) -> None:
    content = {"model": network(widths=(4, 4)).state_dict(), "teacher": trained.state_dict()}
    assert notes(tmp_path, trained, content) == []


def test_two_different_networks_are_refused_by_name(tmp_path: Path, trained: ConvNet) -> None:
    state = trained.state_dict()
    path = written(tmp_path / "c.pt", {"model": state, "net": other(state)})
    refused(path, "both 'model' and 'net' fit the network; keep the one you mean")
    (line,) = notes(tmp_path, trained, {"model": state, "net": dict(state)})
    assert line.startswith("Took 'model'")  # the same weights twice


def test_a_file_that_holds_itself_is_read_to_an_end(tmp_path: Path, trained: ConvNet) -> None:
    content: dict[str, Any] = {}
    content |= {f"again{index}": content for index in range(2000)}
    refused(written(tmp_path / "c.pt", content), "with the keys 'again0'")
    assert notes(tmp_path, trained, content | {"model": trained.state_dict()}) == []


CIFAR = ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616])


@pytest.mark.parametrize(("front", "prefix"), [("0.", "1."), ("normalize.", "model."), ("", "")])
@pytest.mark.parametrize("shape", [(3,), (1, 3, 1, 1)])
@pytest.mark.parametrize("scale", [1, 255])
def test_a_normalisation_in_front_is_named_with_its_values(
    tmp_path: Path, trained: ConvNet, front: str, prefix: str, shape: tuple[int, ...], scale: int
) -> None:
    mean, std = (scale * torch.tensor(values).view(shape) for values in CIFAR)
    content = {f"{front}mean": mean, f"{front}std": std, **below(prefix, trained.state_dict())}
    (line,) = notes(tmp_path, trained, content)
    assert f"normalises images itself ('{front}mean', '{front}std')" in line
    assert "dataset.mean=[0.4914,0.4822,0.4465] dataset.std=[0.247,0.2435,0.2616]" in line


def test_a_normalisation_that_does_nothing_has_no_values_to_give(
    tmp_path: Path, trained: ConvNet
) -> None:
    front = {"0.mean": torch.zeros(3), "0.std": torch.ones(3)}
    (line,) = notes(tmp_path, trained, {**front, **below("1.", trained.state_dict())})
    assert "a normalisation that does nothing ('0.mean', '0.std'); dataset.mean and" in line


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "but found a dict$"),
        ([1, 2], "but found a list"),
        (torch.zeros(3), "but found a Tensor"),
        ({"epoch": 3, "config": {"b": 1}}, "found a dict with the keys 'epoch', 'config'$"),
        ({0: torch.zeros(3)}, "found a dict with the keys '0'$"),
        ({f"k{i}": i for i in range(10)}, "'k6', 'k7' and 2 more$"),
        ("weights", "but found a str"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any, match: str) -> None:
    refused(written(tmp_path / "c.pt", content), match)


def test_another_architecture_is_told_by_its_entries(tmp_path: Path) -> None:
    path = written(tmp_path / "c.pt", network(widths=(4, 8, 8)).state_dict())
    refused(path, r"of a ConvNet with 12 entries, but 0 are missing and 5 are foreign \(first: 's")
    linear = {"epoch": 1, "model": nn.Linear(3, 4).state_dict()}
    line = refused(written(tmp_path / "c.pt", linear), "12 are missing and 2 are foreign")
    assert "found a dict with the keys 'epoch', 'model'; choose the matching teacher=..." in line
    assert "none is near, teacher=timm or" in line


def test_more_entries_below_the_prefix_are_another_architecture(
    tmp_path: Path, trained: ConvNet
) -> None:
    content = below("model.", {**trained.state_dict(), "attention.weight": torch.ones(3)})
    refused(written(tmp_path / "c.pt", content), r"0 are missing and 1 are foreign \(first: 'mode")


def test_another_network_of_ours_is_suggested(tmp_path: Path) -> None:
    state = below("net.", WideResNet(16, 2, num_classes=7).state_dict())
    path = written(tmp_path / "c.pt", lightning(state))
    refused(path, r"nearest is teacher=wrn16_2 \(70 of 70 entries match\)$")


def test_another_width_is_told_by_its_shape(tmp_path: Path) -> None:
    path = written(tmp_path / "c.pt", network(widths=(5, 8)).state_dict())
    refused(path, r"shape \(4, 3, 3, 3\) .* \(5, 3, 3, 3\); choose the matching teacher=")


def test_another_class_count_is_told_by_both_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "c.pt", {"net": network(classes=7).state_dict()})
    refused(
        path, r"have 4 classes, but it has 7; choose .* dataset=\.\.\., .* teacher\.class_map=FILE"
    )
    path = written(tmp_path / "c.pt", {"net": network(classes=3).state_dict()})
    refused(path, r"have 4 classes, but it has 3; choose the matching dataset=\.\.\.$")


def test_another_kind_of_last_layer_is_told_by_its_shape(tmp_path: Path) -> None:
    state: dict[str, Tensor] = network().state_dict()
    state["fc.weight"] = state["fc.weight"][..., None]
    refused(written(tmp_path / "c.pt", state), r"'fc\.weight' of shape \(4, 8\) .* \(4, 8, 1\)")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_in_float32_are_refused(
    tmp_path: Path, trained: ConvNet, bad: float
) -> None:
    state = cast(trained.state_dict(), torch.float64)
    state["fc.weight"][1, 2] = bad
    refused(written(tmp_path / "c.pt", state), r"finite weights, but 'fc\.weight'")


def test_quantised_weights_are_refused(tmp_path: Path, trained: ConvNet) -> None:
    state = trained.state_dict()
    state["fc.weight"] = state["fc.weight"].to(torch.int8)
    refused(written(tmp_path / "c.pt", state), r"'fc\.weight' .* is torch\.int8; .*quantised")


def test_weights_without_values_do_not_count(tmp_path: Path, trained: ConvNet) -> None:
    state = {name: value.to("meta") for name, value in trained.state_dict().items()}
    refused(written(tmp_path / "c.pt", state), "but found a dict with the keys 'stages.0.weight'")


def test_arguments_of_a_script_stay_refused(tmp_path: Path, trained: ConvNet) -> None:
    content = {"state_dict": trained.state_dict(), "args": argparse.Namespace(lr=0.1)}
    refused(written(tmp_path / "c.pt", content), r"Refused .* 'argparse\.Namespace'")
