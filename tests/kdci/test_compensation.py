from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.kdci.compensation import BackdoorCompensation
from src.kdci.dictionary import ConfounderDictionary
from tests.reference import compensation as reference

N, K, D = 5, 4, 6
SOFTMAX = ["additive", "dot", "cosine"]
FIXED = ["uniform", "random"]
FUSIONS, PROJECTIONS = ["residual", "linear"], ["learned", "identity"]
FORMS = ["geometric", "arithmetic"]
IN_LOGITS = list(product(SOFTMAX + FIXED, FUSIONS, PROJECTIONS, FORMS))
IN_FEATURES = list(product(["additive", "dot", *FIXED], FUSIONS))


def dictionary(dim: int = K, count: int = N) -> ConfounderDictionary:
    prior = torch.rand(count).add(0.1).sort(descending=True).values
    facts = {"space": "logits" if dim == K else "features"}
    counts = torch.ones(count, K, dtype=torch.int64)
    return ConfounderDictionary(3 * torch.randn(count, dim), prior / prior.sum(), counts, facts)


def make(dim: int = K, count: int = N, **options: Any) -> BackdoorCompensation:
    """A compensation that looks trained: W_h is no identity any more."""
    given = dictionary(dim, count)
    module = BackdoorCompensation(given, num_classes=K, **({"attention_dim": 7} | options))
    if module.fuse is not None:
        module.fuse.data += 0.3 * torch.randn(K, K)
    return module


def learned(module: BackdoorCompensation) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | {"random_weights": module.random_weights}


def assert_equals_the_slow_equation(
    module: BackdoorCompensation, *, attention: str, form: str, renormalise: bool
) -> None:
    """Values and all gradients, in float64."""
    module = module.double()
    logits = (3 * torch.randn(3, K)).double().requires_grad_()
    slow = reference.compensated(
        logits,
        module.prototypes,
        module.prior,
        learned(module),
        attention=attention,
        form=form,
        renormalise=renormalise,
        strength=module.facts["strength"],
    )
    leaves, probe = [logits, *module.parameters()], torch.randn_like(slow)
    results = []
    for output in (module(logits), slow):
        gradients = torch.autograd.grad((output * probe).sum(), leaves)
        results.append([output.detach(), *gradients])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("prior", ["proportion", "uniform"])
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize(("attention", "fusion", "projection", "form"), IN_LOGITS)
def test_equals_the_slow_equation_in_logit_space(
    attention: str, fusion: str, projection: str, form: str, renormalise: bool, prior: str
) -> None:
    module = make(
        attention=attention,
        fusion=fusion,
        projection=projection,
        expectation=form,
        renormalise=renormalise,
        prior=prior,
        strength=0.7,
    )
    assert_equals_the_slow_equation(
        module, attention=attention, form=form, renormalise=renormalise
    )


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize(("attention", "fusion"), IN_FEATURES)
def test_equals_the_slow_equation_in_feature_space(
    attention: str, fusion: str, renormalise: bool
) -> None:
    module = make(D, attention=attention, fusion=fusion, renormalise=renormalise)
    assert_equals_the_slow_equation(
        module, attention=attention, form="geometric", renormalise=renormalise
    )


@pytest.mark.parametrize("attention", SOFTMAX + FIXED)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_gradient_reaches_every_parameter(attention: str, fusion: str) -> None:
    module = make(attention=attention, fusion=fusion)
    module(torch.randn(8, K)).square().sum().backward()
    untouched = [
        name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()
    ]
    assert untouched == []


@pytest.mark.parametrize("attention", [*SOFTMAX, "uniform"])
@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_the_dictionary_is_irrelevant(attention: str, form: str) -> None:
    module, logits = make(attention=attention, expectation=form).double(), torch.randn(6, K)
    before = module(logits.double())
    order = torch.randperm(N)
    module.load(
        ConfounderDictionary(
            module.prototypes[order], module.prior[order], torch.ones(N, K).long(), {}
        )
    )
    torch.testing.assert_close(module(logits.double()), before)


@pytest.mark.parametrize("attention", SOFTMAX + FIXED)
def test_one_prototype_gives_every_prediction_the_same_compensation(attention: str) -> None:
    module, logits = make(count=1, attention=attention), torch.randn(6, K)
    assert module.project is not None
    constant = module.project @ module.prototypes[0]
    torch.testing.assert_close(module(logits) - logits, constant.expand(6, K))


@pytest.mark.parametrize(("renormalise", "divisor"), [(False, N), (True, 1)])
def test_uniform_weights_add_the_mean_prototype(renormalise: bool, divisor: int) -> None:
    module = make(
        attention="uniform", prior="uniform", projection="identity", renormalise=renormalise
    )
    logits = torch.randn(6, K)
    expected = module.prototypes.mean(0) / divisor
    torch.testing.assert_close(module(logits) - logits, expected.expand(6, K))


def test_a_renormalised_arithmetic_mean_is_a_distribution() -> None:
    module = make(projection="identity", expectation="arithmetic", renormalise=True)
    expected = module.expect(module.log_attention(torch.randn(6, K)) + module.prior.log())
    torch.testing.assert_close(expected.exp().sum(1), torch.ones(6))


@pytest.mark.parametrize("attention", SOFTMAX + FIXED)
def test_attention_sums_to_one(attention: str) -> None:
    weights = make(attention=attention).log_attention(torch.randn(6, K)).exp()
    assert weights.shape == (6, N)
    torch.testing.assert_close(weights.sum(1), torch.ones(6))


def test_random_attention_is_not_uniform_and_not_learned() -> None:
    module = make(attention="random")
    assert module.random_weights.std() > 0
    assert "random_weights" in module.state_dict()
    assert {name for name, _ in module.named_parameters()} == {"project"}


@pytest.mark.parametrize("attention", SOFTMAX)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("renormalise", [False, True])
def test_extreme_predictions_have_finite_gradients(
    attention: str, form: str, renormalise: bool
) -> None:
    module = make(attention=attention, expectation=form, renormalise=renormalise)
    logits = (1e4 * torch.randn(6, K)).requires_grad_()
    module(logits).sum().backward()
    for tensor in [logits, *module.parameters()]:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_strength_is_a_factor() -> None:
    logits = torch.randn(6, K)
    torch.manual_seed(1)
    once = make(strength=1.0)(logits) - logits
    torch.manual_seed(1)
    thrice = make(strength=3.0)(logits) - logits
    torch.testing.assert_close(thrice, 3 * once)


def test_no_strength_is_the_plain_prediction_bit_for_bit() -> None:
    logits = torch.randn(6, K)
    assert torch.equal(make(strength=0.0)(logits), logits)


def test_plain_is_what_is_fused_without_the_compensation() -> None:
    logits = torch.randn(6, K)
    assert make(fusion="residual").plain(logits) is logits
    module = make(fusion="linear", strength=0.0)
    assert module.fuse is not None
    torch.testing.assert_close(module.plain(logits), logits @ module.fuse.T)
    assert torch.equal(module(logits), module.plain(logits))


def test_linear_fusion_starts_as_the_identity() -> None:
    module = BackdoorCompensation(dictionary(), num_classes=K, fusion="linear")
    assert module.fuse is not None
    assert torch.equal(module.fuse, torch.eye(K))


def test_is_exact_under_autocast() -> None:
    module, logits = make(), torch.randn(6, K)
    with torch.autocast("cpu", torch.bfloat16):
        inside = module(logits)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, module(logits))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_plain_prediction_is_float32_under_autocast(fusion: str) -> None:
    module, logits = make(fusion=fusion), torch.randn(6, K)
    with torch.autocast("cpu", torch.bfloat16):
        inside = module.plain(logits)
        narrow = module.plain(logits.bfloat16())
    expected = logits if module.fuse is None else torch.nn.functional.linear(logits, module.fuse)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, expected)
    assert narrow.dtype == (torch.float32 if fusion == "linear" else torch.bfloat16)


def test_construction_draws_nothing_from_the_global_generator() -> None:
    given, before = dictionary(), torch.get_rng_state()
    BackdoorCompensation(given, num_classes=K, fusion="linear")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_alone_decides_the_initialisation() -> None:
    given = dictionary()

    def initial(seed: int) -> dict[str, Tensor]:
        torch.randn(3)
        return BackdoorCompensation(given, num_classes=K, seed=seed).state_dict()

    first, again, other = initial(0), initial(0), initial(1)
    drawn = ("query", "key", "score", "project", "random_weights")
    assert all(torch.equal(first[name], again[name]) for name in drawn)
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_initialisation_is_that_of_a_linear_layer() -> None:
    module = BackdoorCompensation(dictionary(D), num_classes=K)
    bounds = {"query": K**-0.5, "key": D**-0.5, "score": 128**-0.5, "project": D**-0.5}
    for name, bound in bounds.items():
        largest = module.get_parameter(name).abs().max()
        assert 0.7 * bound < largest <= bound, name


def test_a_state_fits_a_new_module_strictly() -> None:
    trained = make(fusion="linear")
    fresh = make(fusion="linear", seed=5)
    fresh.load_state_dict(trained.state_dict())
    logits = torch.randn(6, K)
    assert torch.equal(fresh(logits), trained(logits))


def test_another_dictionary_takes_the_place_of_the_first() -> None:
    module, other = make(), dictionary()
    module.load(other)
    assert torch.equal(module.prototypes, other.prototypes)
    assert torch.equal(module.prior, other.prior)


def test_the_uniform_prior_replaces_proportions() -> None:
    torch.testing.assert_close(make(prior="uniform").prior, torch.full((N,), 1 / N))
    assert make(prior="proportion").prior.std() > 0


@pytest.mark.parametrize(
    "option", [{"attention": "cosine"}, {"projection": "identity"}, {"expectation": "arithmetic"}]
)
def test_what_needs_logits_is_refused_in_feature_space(option: dict[str, Any]) -> None:
    ((key, value),) = option.items()
    with pytest.raises(UserError, match=f"kdci.adjustment.{key}={value}, but got 'features'"):
        make(D, **option)


def test_an_unknown_attention_is_refused_by_name() -> None:
    module: Any = make(attention="nearest")
    with pytest.raises(ValueError, match="known attention, but got 'nearest'"):
        module(torch.randn(2, K))
