"""What every method promises, whatever conf/baseline holds; a newcomer is tested by existing."""

import ast
import copy
import gc
import inspect
import io
import math
import re
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from src import naming
from src.common import package
from src.common.seeding import seed_all
from src.config.check import check
from src.dataset.contract import ImageSpec
from src.network.convnet import ConvNet
from src.objective.distillation import reads_maps
from src.pipeline.job import build
from src.student.step import meet, plain_output
from src.substitution.contract import Baseline, Extent, advance
from src.substitution.image_bank import banks_of, files_of, stores_of
from src.substitution.module import predict
from src.teacher.frozen import FrozenTeacher
from tests import elsewhere
from tests.smoke import on_two_ranks
from tests.toys import NoisePool
from tests.waits import Waits

NAMES = sorted(path.stem for path in (package.CONF / "baseline").glob("*.yaml"))
RECIPES = sorted(path.stem for path in (package.CONF / "recipe").glob("*.yaml"))
BATCH = 4


def method_and_data(recipe: str) -> tuple[str, str]:
    """Both parts of a recipe's name; names may hold underscores."""
    method = max((name for name in NAMES if recipe.startswith(f"{name}_")), key=len)
    return method, recipe.removeprefix(f"{method}_")


@cache
def smoke_node(name: str) -> dict[str, Any]:
    """The method's checked configuration, at the smallest budget and a smaller batch."""
    with initialize_config_dir(str(package.CONF), version_base="1.3"):
        config = compose("config", [f"baseline={name}", "budget=smoke"])
    node = check(naming.resolved(config)).baseline
    return node | ({"batch_size": BATCH} if "batch_size" in node else {})


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


def made(name: str, spec: ImageSpec, teacher: FrozenTeacher) -> Baseline:
    """The method as the program builds it."""
    node = smoke_node(name)
    pool = {"pool": NoisePool()} if get_class(node["_target_"]).reads_pool else {}
    return build(node, teacher=teacher, spec=spec, **pool)


@pytest.fixture
def make(name, tiny_spec, tiny_teacher) -> Callable[..., Baseline]:
    """Builds the method from a seed."""

    def from_seed(seed: int = 0) -> Baseline:
        seed_all(seed)
        return made(name, tiny_spec, tiny_teacher)

    return from_seed


@pytest.fixture
def student(tiny_spec) -> ConvNet:
    """In train mode, and with gradients that nobody may touch."""
    network = ConvNet([4, 8], num_classes=tiny_spec.num_classes).train()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    return network


def play(baseline: Baseline, student: nn.Module | None, rounds: int) -> list[dict[str, Tensor]]:
    """Rounds of stage (a), and what is recorded after each."""
    terms = []
    for _ in range(rounds):
        terms.append(advance(baseline, student))
        baseline.harvest(2)
    return terms


def copied(tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_it_can_be_tried_before_there_is_a_teacher(name, tiny_spec):
    """Without memory, so that what only its constructor refuses is told before a fit."""

    class Undecoded(NoisePool):
        def unlabeled(self, image_size: int) -> Tensor:
            raise AssertionError  # it may take hours

    reads_pool = get_class(smoke_node(name)["_target_"]).reads_pool
    pool = {"pool": Undecoded()} if reads_pool else {}
    with torch.device("meta"):
        teacher = FrozenTeacher(ConvNet([4, 8], num_classes=tiny_spec.num_classes))
        tried = build(smoke_node(name), teacher=teacher, spec=tiny_spec, **pool)
    assert {tensor.device.type for tensor in tried.parameters()} <= {"meta"}


def test_a_round_does_not_wait_for_its_device(make, student):
    baseline = make()
    play(baseline, student, 1)  # which makes optimisers, banks and what is known of the layers
    with Waits() as waits:
        advance(baseline, student)
    assert waits.seen == []


def test_rounds_on_another_device_are_those_of_the_cpu(make, student, tiny_teacher):
    """Nothing is mixed, nothing waited for; what is thrown or chosen on the host goes there."""
    here = played(make(), copy.deepcopy(student))
    baseline = make()
    with elsewhere.moving():
        for network in (baseline, baseline.teacher, student):
            network.to(elsewhere.DEVICE)
    there = played(baseline, student)
    assert {tensor.device for tensor in there} == {elsewhere.DEVICE}
    for left, right in zip(here, there, strict=True):
        torch.testing.assert_close(left, right.cpu(), rtol=1e-4, atol=1e-5)
    with elsewhere.watched() as seen:
        advance(baseline, student)
        baseline.sample(BATCH)
    assert set(seen) <= {"to"}


def played(baseline: Baseline, student: ConvNet) -> list[Tensor]:
    """Loss terms of two rounds, a batch for students, and the loss and gradient of one."""
    seed_all(1)
    terms = play(baseline, student, 2)
    images, objective = baseline.sample(BATCH), baseline.objective().to(baseline.device)
    output, loss = meet(images, baseline.teacher, partial(plain_output, student), objective)
    slope = torch.autograd.grad(loss, student.head.weight)[0]
    found = [term for each in terms for term in each.values()]
    return [*found, images, output.plain_logits.detach(), loss.detach(), slope]


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_what_a_saved_state_holds_goes_to_the_device_of_the_method(make, student):
    first, second = make(), make().to("meta")
    play(first, student, 1)
    before = held(second)
    second.load_state_dict(first.state_dict())  # as it was read from a file, onto the CPU
    new = [tensor for tensor in held(second) if not any(tensor is each for each in before)]
    assert {tensor.device.type for tensor in new} <= {"meta"}


def held(baseline: Baseline) -> list[Tensor]:
    """What is computed with, in attributes and tuples in them; indices stay on the CPU."""
    values = vars(baseline).values()
    groups = [value if isinstance(value, tuple | list) else [value] for value in values]
    tensors = [each for group in groups for each in group if isinstance(each, Tensor)]
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def test_rounds_are_recorded_and_sampled_in_bfloat16(make, student):
    baseline = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (terms,) = play(baseline, student, 1)
        batch = baseline.sample(2)
    assert all(term.isfinite() for term in terms.values())
    assert batch.isfinite().all()
    for store in stores_of(baseline).values():
        store.require_finite("images")


def test_autocast_narrows_neither_gradients_nor_the_student_s_last_layer(
    make, student, backward_passes
):
    baseline, seen = make(), []
    student.register_forward_hook(lambda _, __, logits: seen.append(logits.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        play(baseline, student, 1)
    assert not any(backward_passes)
    assert set(seen) <= {torch.float32}


def test_autocast_keeps_no_weights_of_an_earlier_step(make, student):
    seen = []
    baseline = make()
    baseline.refresh = lambda _: seen.append(torch.is_autocast_cache_enabled()) or {}
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=True):
        advance(baseline, student)
    assert seen == [False]


def test_rounds_return_finite_detached_scalars_with_and_without_a_student(make, student):
    for reader in (None, student):
        (terms,) = play(make(), reader, 1)
        assert terms
        for term in terms.values():
            assert term.shape == ()
            assert not term.requires_grad
            assert torch.isfinite(term)


def test_the_teacher_stays_bit_identical(make, student, tiny_teacher):
    before = tiny_teacher.fingerprint()
    baseline = make()
    play(baseline, student, 3)
    baseline.sample(BATCH)
    baseline.train()
    assert tiny_teacher.fingerprint() == before
    assert not any(module.training for module in tiny_teacher.network.modules())
    assert all(p.grad is None and not p.requires_grad for p in tiny_teacher.parameters())
    assert not any(key.startswith("teacher") for key in baseline.state_dict())


def test_a_method_that_does_not_say_so_leaves_the_teacher_s_statistics_alone(make, monkeypatch):
    listened = []
    hook = nn.BatchNorm2d.register_forward_pre_hook
    monkeypatch.setattr(
        nn.BatchNorm2d,
        "register_forward_pre_hook",
        lambda layer, *rest: listened.append(layer) or hook(layer, *rest),
    )
    baseline = make()
    play(baseline, None, 1)
    assert bool(listened) == baseline.reads_statistics


def test_no_more_is_recorded_than_was_said_beforehand(name, make):
    baseline = make()
    extent = Extent(rounds=3, num_images=6, pool=len(NoisePool().images))
    said = baseline.most_recorded(smoke_node(name), extent)
    play(baseline, None, 3)
    recorded = map(len, baseline.substitution_data())
    bounds = said.values() if said else [math.inf] * len(baseline.substitution_data())
    assert all(count <= most for count, most in zip(recorded, bounds, strict=True))


def test_the_student_is_left_alone(make, student):
    baseline = make()
    parameters, buffers = copied(student.named_parameters()), copied(student.named_buffers())
    play(baseline, student, 3)
    assert same(copied(student.named_parameters()), parameters)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in student.parameters())
    assert all(p.requires_grad for p in student.parameters())
    assert all(module.training for module in student.modules())
    moved = not same(copied(student.named_buffers()), buffers)
    assert moved == (baseline.student_mode == "train")


def test_a_method_that_says_so_never_runs_the_student(make):
    class Refuses(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError

    baseline = make()
    if baseline.reads_student:
        with pytest.raises(AssertionError):
            play(baseline, Refuses(), 3)
    else:
        play(baseline, Refuses(), 3)


def test_rounds_repeat_from_their_seed(make, student):
    def outcome(seed: int) -> tuple[list[dict[str, Tensor]], Tensor]:
        baseline = make()
        network = ConvNet([4, 8], num_classes=4)
        network.load_state_dict(student.state_dict())
        seed_all(seed)
        return play(baseline, network, 3), baseline.sample(BATCH)

    (terms, images), (again, same_images), (_, other_images) = (outcome(s) for s in (1, 1, 2))
    assert all(same(left, right) for left, right in zip(terms, again, strict=True))
    assert torch.equal(images, same_images)
    assert not torch.equal(images, other_images)


def test_rounds_do_not_depend_on_the_mode_that_a_method_was_left_in(make, student):
    outcomes = []
    for training in (True, False):
        baseline, network = make(), copy.deepcopy(student)
        baseline.train(training)
        seed_all(1)
        terms = play(baseline, network, 2)
        outcomes.append([*terms[-1].values(), baseline.sample(BATCH)])
    assert all(torch.equal(*pair) for pair in zip(*outcomes, strict=True))


def test_samples_are_detached_batches_in_the_teachers_space(make, student, tiny_spec):
    baseline = make()
    play(baseline, student, 2)
    for n in (BATCH, 2):
        images = baseline.sample(n)
        assert images.shape == (n, tiny_spec.channels, tiny_spec.image_size, tiny_spec.image_size)
        assert images.dtype == torch.float32
        assert images.device == baseline.device
        assert not images.requires_grad
        assert torch.isfinite(images).all()


def test_saving_and_loading_reproduces_what_comes_next(make, student, tmp_path):
    first, second = make(), make(seed=9)
    play(first, student, 3)
    for key, store in files_of(first).items():
        store.sync(tmp_path / key)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for key, store in files_of(second).items():
        store.restore(tmp_path / key)
    twin = ConvNet([4, 8], num_classes=4)
    twin.load_state_dict(student.state_dict())
    outcomes = []
    for baseline, network in ((first, student), (second, twin)):
        seed_all(5)
        outcomes.append([baseline.sample(BATCH)])
        terms = play(baseline, network, 2)
        outcomes[-1] += [*terms[-1].values(), baseline.sample(BATCH)]
    assert len(outcomes[0]) >= 2
    assert all(torch.equal(*pair) for pair in zip(*outcomes, strict=True))


def test_the_order_of_the_banks_in_files_is_that_of_the_data(make, student):
    baseline = make()
    play(baseline, student, 1)
    data = baseline.substitution_data()
    assert all(len(bank) for bank in data)
    found = list(banks_of(baseline).values())
    assert all(left is right for left, right in zip(found, data, strict=True))


def test_the_teacher_predicts_all_that_was_recorded(make, student, tiny_teacher):
    baseline = make()
    play(baseline, student, 2)
    recording = predict(tiny_teacher, baseline.substitution_data())
    assert len(recording.logits) == sum(len(bank) for bank in recording.banks)
    assert torch.isfinite(recording.logits).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_laid_out_as_their_weights(make, student, layout):
    """Fused Adam takes for granted, on CPUs without a word, that they are."""
    apart, steps = [], []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        steps.append(optimizer)
        for group in optimizer.param_groups:
            pairs = ((p, p.grad) for p in group["params"] if p.grad is not None)
            apart.extend(p.shape for p, grad in pairs if p.stride() != grad.stride())

    baseline = make().to(memory_format=layout)
    handle = register_optimizer_step_pre_hook(look)
    try:
        play(baseline, student, rounds=2)
    finally:
        handle.remove()
    assert not apart
    assert steps or type(baseline).__name__ == "DFND"  # it makes nothing


def test_optimisers_that_outlive_a_round_step_networks_that_all_ranks_share(make):
    baseline = make()
    shared = {id(p) for network in baseline.networks() for p in network.parameters()}
    for optimizer in baseline.optimizers().values():
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} <= shared


def test_the_objective_teaches_a_student(make, student, tiny_teacher):
    baseline = make()
    play(baseline, student, 1)
    network = ConvNet([4, 8], num_classes=4)
    images, taught = baseline.sample(BATCH), partial(plain_output, network)
    output, loss = meet(images, tiny_teacher, taught, baseline.objective())
    assert loss.shape == ()
    output.logits.retain_grad()
    loss.backward()
    assert output.logits.grad.abs().sum() > 0


def test_who_compares_maps_says_so_before_it_is_built(name, make):
    # Otherwise networks that do not match are refused after hours of stage (a).
    compares = get_class(smoke_node(name)["_target_"]).compares_maps(smoke_node(name))
    assert reads_maps(make().objective()) == compares


def alive() -> tuple[int, int]:
    """Number of tensors that live, and the bytes that they hold."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return len(tensors), sum(held.values())


def hooks(*networks: nn.Module) -> int:
    """Number of forward and backward hooks on all sub-modules."""
    return sum(
        len(value)
        for network in networks
        for module in network.modules()
        for key, value in vars(module).items()
        if key.endswith("_hooks")
    )


@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_rounds_leave_nothing_behind(make, student, tiny_teacher, rounds):
    baseline = make()
    hooked = hooks(baseline, tiny_teacher, student)
    play(baseline, student, 5)
    before, length = alive(), sum(len(bank) for bank in baseline.substitution_data())
    for _ in range(rounds):
        advance(baseline, student)
    assert hooks(baseline, tiny_teacher, student) == hooked
    assert alive() == before
    grown = sum(len(bank) for bank in baseline.substitution_data()) - length
    assert grown in (0, rounds * BATCH)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Dynamo about its own doings
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_round_equals_an_eager_one(make, student):
    """Whole rounds are compiled: where the graph breaks, losses and networks still are in it."""
    loss_terms, images = [], []
    for compiled in (False, True):
        baseline, network = make(), copy.deepcopy(student)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        if compiled:
            baseline.refresh = torch.compile(baseline.refresh)
        seed_all(1)
        with torch._inductor.config.patch(fallback_random=True):  # the draws of eager mode
            loss_terms.append(play(baseline, network, 2)[-1])
        images.append(baseline.sample(BATCH))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(loss_terms[1], loss_terms[0], rtol=1e-4, atol=1e-6)
    # Rounding may tip a stored pixel over to the next of 256 levels.
    torch.testing.assert_close(images[1], images[0], rtol=1e-4, atol=1.01 / 255 / 0.2)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    """What every method leaves on rank 0 and on rank 1."""
    folder = tmp_path_factory.mktemp("ranks")
    return on_two_ranks("tests.baseline.two_ranks", folder)


@pytest.mark.ddp
@pytest.mark.xdist_group("ranks")
def test_ranks_keep_one_network_and_images_of_their_own(name, ranks):
    first, second = (rank[name] for rank in ranks)
    assert first["networks"] == second["networks"]
    assert first["moved"] == first["trained"]
    assert first["images"] != second["images"]


def words_of(path: Path) -> list[str]:
    """Identifiers and strings of a source file, without docstrings and comments; also parted."""
    tree = ast.parse(path.read_text())
    bare = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    fields = [
        value for n in ast.walk(tree) if id(n) not in bare for _, value in ast.iter_fields(n)
    ]
    words = [value for value in fields if isinstance(value, str)]
    parted = [re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", word) for word in words]
    return [word.lower() for word in (*words, *parted)]


def test_no_other_file_knows_the_method(name):
    source = package.ROOT / "src"
    own = package.ROOT / Path(*smoke_node(name)["_target_"].split(".")[:-1]).with_suffix(".py")
    assert own.is_relative_to(source / "baseline")
    # Architectures may be called after the paper that they come from.
    others = set(source.rglob("*.py")) - {own} - set((source / "network").glob("*.py"))
    assert len(others) > 50
    # A whole word: "mad" is no part of "made".
    whole = re.compile(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])")
    guilty = [path for path in others if any(map(whole.search, words_of(path)))]
    assert guilty == []
    assert any(map(whole.search, words_of(own)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_valid_configuration(recipe):
    baseline, dataset = method_and_data(recipe)
    overrides = [f"baseline={baseline}", f"dataset={dataset}"]
    with initialize_config_dir(str(package.CONF), version_base="1.3"):
        check(naming.resolved(compose("config", overrides)))


def test_defaults_of_the_constructor_are_those_of_the_configuration(name):
    node = OmegaConf.load(package.CONF / "baseline" / f"{name}.yaml")
    arguments = inspect.signature(get_class(node["_target_"])).parameters
    given = {
        key: each.default for key, each in arguments.items() if each.default is not each.empty
    }
    compared = [key for key in given if not OmegaConf.is_interpolation(node, key)]
    assert compared
    for key in compared:
        listed = [*given[key]] if isinstance(given[key], tuple) else given[key]
        assert node[key] == listed, key


def changed(name: str, spec: ImageSpec, teacher: FrozenTeacher, **options: Any) -> Baseline | None:
    """The method with other options, or none if it has no such ones."""
    node = smoke_node(name)
    if not options.keys() <= node.keys():
        return None
    pool = {"pool": NoisePool()} if get_class(node["_target_"]).reads_pool else {}
    return build(node | options, teacher=teacher, spec=spec, **pool)


def test_the_student_learns_at_the_temperature_that_was_chosen(name, tiny_spec, tiny_teacher):
    baseline = changed(name, tiny_spec, tiny_teacher, temperature=3.5)
    if baseline is not None:
        assert baseline.objective().temperature == 3.5


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_generator_feeds_the_student_in_the_mode_that_was_chosen(
    name, tiny_spec, tiny_teacher, student, mode
):
    baseline = changed(name, tiny_spec, tiny_teacher, sampling_mode=mode)
    if baseline is not None:
        advance(baseline, student)
        for draw in (baseline.sample, baseline.harvest):
            before = copied(baseline.generator.named_buffers())
            draw(4)
            assert same(before, dict(baseline.generator.named_buffers())) == (mode == "eval")
