import pytest
import torch
from torch import Tensor, nn

from src.common.finite import FiniteWatch, LossMonitor, require_finite

NAN, INF = float("nan"), float("inf")


def watch(**terms: list[float]) -> LossMonitor:
    """Update step by step, counting from 10."""
    monitor = LossMonitor()
    for index, values in enumerate(zip(*terms.values(), strict=True)):
        monitor.update(10 + index, dict(zip(terms, map(torch.tensor, values), strict=True)))
    return monitor


def test_gives_means_and_starts_afresh() -> None:
    monitor = watch(a=[1.0, 2.0, 6.0], b=[0.5, 0.5, 0.5])
    assert monitor.flush("step") == {"a": 3.0, "b": 0.5}
    assert monitor.flush("step") == {}
    monitor.update(20, {"a": torch.tensor(7.0)})
    assert monitor.flush("step") == {"a": 7.0}


def test_a_term_that_starts_late_is_averaged_over_its_own_steps() -> None:
    monitor = watch(a=[1.0, 3.0])
    monitor.update(12, {"a": torch.tensor(2.0), "late": torch.tensor(5.0)})
    assert monitor.flush("step") == {"a": 2.0, "late": 5.0}


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_names_the_first_bad_term_and_its_step(bad: float) -> None:
    monitor = watch(a=[1.0, 1.0, bad, 1.0], b=[1.0, bad, bad, 1.0], c=[1.0, 1.0, 1.0, 1.0])
    with pytest.raises(FloatingPointError, match=r"term 'b' is not finite at round 11; .*32-true"):
        monitor.flush("round")


def test_an_infinity_that_cancels_is_still_found() -> None:
    with pytest.raises(FloatingPointError, match="'a' is not finite at step 10"):
        watch(a=[INF, -INF, 1.0]).flush("step")


def test_step_zero_can_be_bad() -> None:
    monitor = LossMonitor()
    monitor.update(0, {"a": torch.tensor(NAN)})
    with pytest.raises(FloatingPointError, match="step 0"):
        monitor.flush("step")


def test_forgets_a_failure_that_was_reported() -> None:
    monitor = watch(a=[NAN])
    with pytest.raises(FloatingPointError):
        monitor.flush("step")
    monitor.update(20, {"a": torch.tensor(1.0)})
    assert monitor.flush("step") == {"a": 1.0}


def test_keeps_no_graph_and_changes_no_loss() -> None:
    leaf = torch.ones(1, requires_grad=True)
    losses: list[Tensor] = [leaf.sum() * k for k in (1, 2)]
    monitor = LossMonitor()
    for step, loss in enumerate(losses):
        monitor.update(step, {"a": loss})
    assert monitor.flush("step") == {"a": 1.5}
    assert [loss.item() for loss in losses] == [1.0, 2.0]
    assert all(loss.grad_fn for loss in losses)


def test_half_precision_terms_are_summed_in_float32() -> None:
    monitor = LossMonitor()
    for step in range(1000):
        monitor.update(step, {"a": torch.tensor(1.001, dtype=torch.bfloat16)})
    assert monitor.flush("step")["a"] == pytest.approx(1.0, rel=1e-6)


HOST_COPIES = ("item", "tolist", "__float__", "__bool__", "cpu", "numpy")


def forbid_host_copies(monkeypatch: pytest.MonkeyPatch, *allowed: str) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a copy to the host in the inner loop")

    for name in set(HOST_COPIES) - set(allowed):
        monkeypatch.setattr(Tensor, name, forbidden)


def test_an_update_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, seen, term = watch(a=[1.0]), FiniteWatch(), torch.tensor(2.0)
    forbid_host_copies(monkeypatch)
    monitor.update(11, {"a": term})
    seen.update(term, term)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_watch_remembers_what_was_not_finite(bad: float) -> None:
    seen = FiniteWatch()
    assert seen.is_clean()
    seen.update(torch.ones(3), torch.empty(0, 2))
    assert seen.is_clean()
    seen.update(torch.ones(2), torch.tensor([[1.0, bad]]).half())
    seen.update(torch.ones(3))
    assert not seen.is_clean()
    seen.reset()
    assert seen.is_clean()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("place", [0, 500, 1000])
def test_one_value_in_many_is_found_wherever_it_is(
    bad: float, dtype: torch.dtype, place: int
) -> None:
    values, clean, seen = torch.randn(1001).to(dtype), FiniteWatch(), FiniteWatch()
    clean.update(values, values[::7], values.new_tensor(1.0))
    values[place] = bad
    seen.update(values.expand(3, -1).t())
    assert clean.is_clean()
    assert not seen.is_clean()


def network() -> nn.Sequential:
    """Parameters 0.weight, 0.bias, 1.weight, 1.bias; floating buffers, and a counter."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_finite_weights_pass_with_one_copy_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    module, copies, tolist = network(), [], Tensor.tolist
    forbid_host_copies(monkeypatch, "tolist")
    monkeypatch.setattr(Tensor, "tolist", lambda t: copies.append(t) or tolist(t))  # type: ignore[func-returns-value]
    require_finite(module, "student")
    assert len(copies) == 1
    require_finite(nn.ReLU(), "student")


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize(
    ("places", "first"),
    [
        (["0.bias"], "0.bias"),
        (["1.running_var"], "1.running_var"),
        (["1.running_mean", "1.weight", "1.bias"], "1.weight"),
    ],
)
def test_the_first_tensor_that_is_not_finite_is_named(
    bad: float, places: list[str], first: str
) -> None:
    module = network()
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for place in places:
        tensors[place].data[-1] = bad
    with pytest.raises(FloatingPointError, match=f"'{first}' of the student .*learning rate"):
        require_finite(module, "student")
