import pytest
import torch
from torch import Tensor

from src.kdci import additive
from src.kdci.additive import AdditiveScores

B, N, A = 6, 9, 5


def plain(queries: Tensor, keys: Tensor, score: Tensor) -> Tensor:
    hidden = torch.tanh(queries[:, None] + keys)
    return (hidden * score).sum(2)


def drawn(scale: float, *, batch: int = B, count: int = N) -> list[Tensor]:
    shapes = (batch, A), (count, A)
    return [*(scale * torch.randn(shape).double() for shape in shapes), torch.randn(A).double()]


def with_gradients(scores: Tensor, leaves: list[Tensor], probe: Tensor) -> list[Tensor]:
    return [scores.detach(), *torch.autograd.grad((scores * probe).sum(), leaves)]


@pytest.fixture(params=[1, 2 * B * N, 2**20], ids=["one", "two", "all"])
def channels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel at a time, two, or all at once; five have a rest."""
    monkeypatch.setattr(additive, "_IN_CACHE", request.param)


@pytest.mark.usefixtures("channels")
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_and_gradients_are_those_of_the_equation(scale: float, dtype: torch.dtype) -> None:
    narrow = [tensor.to(dtype).requires_grad_() for tensor in drawn(scale)]
    wide = [tensor.detach().double().requires_grad_() for tensor in narrow]
    probe = torch.randn(B, N, dtype=dtype)
    found = with_gradients(AdditiveScores.apply(*narrow), narrow, probe)
    expected = with_gradients(plain(*wide), wide, probe.double())
    # Sums of queries and keys near 0 are of the accuracy of what was added.
    atol = 30 * torch.finfo(dtype).eps * max(1, scale)
    for mine, true in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=0, atol=atol)


@pytest.mark.usefixtures("channels")
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_gradients_are_those_of_finite_differences(scale: float) -> None:
    leaves = [tensor.requires_grad_() for tensor in drawn(1.0)]
    leaves[0].data[:, 0] *= scale  # too large for exponentials
    leaves[1].data[:, 0] *= scale
    assert torch.autograd.gradcheck(AdditiveScores.apply, leaves)


def test_both_ways_are_taken() -> None:
    for scale, is_ratio in ((1.0, True), (10.0, True), (200.0, False)):
        queries, keys, _ = drawn(scale)
        assert additive._factors(queries.float(), keys.float())[2] is is_ratio


def test_queries_far_beyond_all_keys_do_not_overflow() -> None:
    queries, keys, score = (tensor.float() for tensor in drawn(1.0))
    queries[0], queries[1] = 1e30, -1e30
    scores = AdditiveScores.apply(queries, keys, score)
    assert additive._factors(queries, keys)[2]
    torch.testing.assert_close(scores[0], score.sum().expand(N))
    torch.testing.assert_close(scores[1], -score.sum().expand(N))


@pytest.mark.parametrize("offset", [1e3, -1e3])
def test_keys_that_all_lie_far_off_are_no_trouble(offset: float) -> None:
    queries, keys, score = drawn(1.0)
    scores = AdditiveScores.apply(queries - offset, keys + offset, score)
    torch.testing.assert_close(scores, plain(queries, keys, score))
    assert additive._factors((queries - offset).float(), (keys + offset).float())[2]


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (1, 7), (7, 1), (0, 3)])
def test_any_number_of_queries_and_keys(batch: int, count: int) -> None:
    given = drawn(1.0, batch=batch, count=count)
    torch.testing.assert_close(AdditiveScores.apply(*given), plain(*given))


def test_repeats_bit_for_bit() -> None:
    leaves = [tensor.float().requires_grad_() for tensor in drawn(1.0)]
    probe = torch.randn(B, N)
    first, again = (with_gradients(AdditiveScores.apply(*leaves), leaves, probe) for _ in range(2))
    assert all(map(torch.equal, first, again))


def test_it_is_exact_where_backward_runs_under_autocast() -> None:
    leaves = [tensor.float().requires_grad_() for tensor in drawn(1.0)]
    probe = torch.randn(B, N)
    outside = with_gradients(AdditiveScores.apply(*leaves), leaves, probe)
    scores = AdditiveScores.apply(*leaves)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(scores, leaves, probe)
    assert all(map(torch.equal, outside[1:], inside))


def test_a_channel_too_wide_for_exponentials_spoils_no_score() -> None:
    queries, keys, score = (tensor.float() for tensor in drawn(1.0))
    queries[:2, 0] = keys[:2, 0] = torch.tensor([90.0, -90.0])  # the other channels have room
    scores = AdditiveScores.apply(queries, keys, score)
    torch.testing.assert_close(scores, plain(queries, keys, score))


def test_no_more_channels_are_held_than_the_limit_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additive, "_IN_CACHE", 2 * B * N)
    parts = [len(total) for _, total in additive._sums(torch.ones(A, B, 1), torch.ones(A, 1, N))]
    assert parts == [2, 2, 1]
