import numpy as np
import pytest
import torch

from src.common.errors import UserError
from src.kdci import number
from src.kdci.clustering import KMeans
from src.kdci.number import choose_number


def blobs(count: int, each: int = 60, seed: int = 0) -> torch.Tensor:
    draws = np.random.default_rng(seed)
    centres = 20 * np.eye(count, max(count, 2), dtype=np.float32)
    rows = np.repeat(centres, each, axis=0) + draws.normal(size=(count * each, max(count, 2)))
    return torch.from_numpy(draws.permutation(rows)).float()


@pytest.mark.parametrize("count", [2, 4, 10])
def test_separated_clusters_are_counted(count: int) -> None:
    for seed in range(3):
        assert choose_number(blobs(count).numpy(), iterations=25, seed=seed)[0] == count


def test_of_many_rows_a_random_part_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number, "_LARGEST_SAMPLE", 120)
    rows = blobs(4)
    in_order = rows[rows.argmax(1).argsort()]  # the first 120 have two clusters
    assert choose_number(in_order.numpy(), iterations=25, seed=0)[0] == 4


def test_a_dictionary_finds_its_number_and_records_how() -> None:
    found = KMeans("auto", seed=3).fit(blobs(4))
    assert found.prototypes.shape == (4, 4)
    assert found.prior.tolist() == pytest.approx([0.25] * 4)
    assert found.counts.sum().item() == 240
    assert found.counts.amax(1).tolist() == [60] * 4
    facts = found.provenance
    assert (facts["N"], facts["found_N"]) == ("auto", 4)
    assert max(facts["silhouettes"], key=facts["silhouettes"].get) == "4"


def test_it_repeats_bit_for_bit() -> None:
    first, again = (KMeans("auto", seed=1).fit(blobs(4)) for _ in range(2))
    assert torch.equal(first.prototypes, again.prototypes)


@pytest.mark.parametrize(
    ("rows", "tried"),
    [
        (torch.eye(4).repeat(20, 1), ["2", "3"]),  # as many clusters as rows explain nothing
        (torch.arange(60.0).view(30, 2), ["2", "3"]),  # ten rows a cluster are enough
        (torch.arange(58.0).view(29, 2), ["2"]),
    ],
    ids=["distinct", "enough", "few"],
)
def test_numbers_are_tried_while_rows_are_many(rows: torch.Tensor, tried: list[str]) -> None:
    _, silhouettes = choose_number(rows.numpy(), iterations=25, seed=0)
    assert [*silhouettes] == tried


def test_too_few_predictions_are_refused() -> None:
    expected = r"at least 3 distinct .* but got 2 of 3; set kdci\.N to a number <= 2, or raise"
    with pytest.raises(UserError, match=expected):
        KMeans("auto").fit(torch.tensor([[0.0, 1], [1, 0], [1, 0]]))


@pytest.mark.parametrize("distinct", [1, 2])
def test_collapsed_predictions_are_said_to_be_too_few_for_a_number_of_their_own(
    distinct: int,
) -> None:
    rows = torch.eye(3)[torch.arange(50) % distinct]
    with pytest.raises(UserError) as caught:
        KMeans("auto").fit(rows)
    assert str(caught.value) == (
        "Expected at least 3 distinct teacher predictions with kdci.N=auto, but got "
        f"{distinct} of 50 (the substitution data has collapsed); set kdci.N to a number <= "
        f"{distinct}, or raise substitution.num_images"
    )
    assert len(KMeans(distinct).fit(rows).prior) == distinct


@pytest.mark.parametrize(
    ("rows", "pca_dim"),
    [
        (torch.cat([torch.zeros(9_998, 3), torch.eye(3)[:2]]), None),  # the part lacks a rare one
        (torch.tensor([[0.0, 0], [0, 9], [1, 0], [1, 9]]), 1),  # distinct before PCA only
    ],
    ids=["rare", "pca"],
)
def test_rows_that_look_alike_are_refused(rows: torch.Tensor, pca_dim: int | None) -> None:
    with pytest.raises(UserError, match=r"at least 3 distinct .* set kdci\.N to a number"):
        KMeans("auto", pca_dim=pca_dim).fit(rows)
