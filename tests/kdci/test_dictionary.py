import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from src.common.errors import UserError
from src.common.sealed import DamagedError
from src.kdci.clustering import KMeans
from src.kdci.dictionary import ConfounderDictionary, Space, predictions_of
from src.kdci.kmeans import kmeans, project
from src.substitution.module import Recording

CENTRES = torch.tensor([[0.0, 0, 9, 0], [9, 0, 0, 0], [0, 9, 0, 0]])


def blobs(*sizes: int) -> Tensor:
    """Rows around the centres, in random order."""
    groups = [CENTRES[k] + 0.1 * torch.randn(m, 4) for k, m in enumerate(sizes)]
    return torch.cat(groups)[torch.randperm(sum(sizes))]


def fit(rows: Tensor, count: int, **options: object) -> ConfounderDictionary:
    return replace(KMeans(count), **options).fit(rows)  # type: ignore[arg-type]


def nearest_centre(rows: Tensor) -> Tensor:
    return torch.cdist(rows, CENTRES).argmin(1)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    dictionary = KMeans(3).fit(blobs(5, 3, 2), teacher_sha256="ab" * 32)
    dictionary.save(tmp_path / "new" / "dictionary.safetensors")
    return tmp_path / "new" / "dictionary.safetensors"


def load(path: Path, sha: str = "ab" * 32, space: Space = "logits", dim: int = 4) -> object:
    return ConfounderDictionary.load(path, teacher_sha256=sha, space=space, dim=dim)


def test_separated_groups_become_means_and_proportions() -> None:
    rows = blobs(20, 50, 30)
    dictionary = fit(rows, 3)
    torch.testing.assert_close(dictionary.prior, torch.tensor([0.5, 0.3, 0.2]))
    means = [rows[nearest_centre(rows) == k].mean(0) for k in (1, 2, 0)]
    torch.testing.assert_close(dictionary.prototypes, torch.stack(means))


def plain_prototypes(rows: Tensor, assignment: Tensor, count: int) -> Tensor:
    """Means of the clusters, one row after another in float64, the largest cluster first."""
    sums, sizes = torch.zeros(count, rows.shape[1]).double(), torch.zeros(count).double()
    for row, cluster in zip(rows, assignment, strict=True):
        sums[cluster] += row
        sizes[cluster] += 1
    order = sizes.argsort(descending=True, stable=True)
    return (sums[order] / sizes[order, None]).float()


@pytest.mark.parametrize("seed", range(4))  # k-means numbers the clusters otherwise
def test_classes_are_counted_in_the_cluster_of_their_samples(seed: int) -> None:
    rows = blobs(20, 50, 30)
    logits = torch.randn(100, 5)
    dictionary = KMeans(3, seed=seed).fit(rows, logits)
    of_blob, classes = nearest_centre(rows), logits.argmax(1)
    expected = [classes[of_blob == k].bincount(minlength=5) for k in (1, 2, 0)]
    assert torch.equal(dictionary.counts, torch.stack(expected))
    torch.testing.assert_close(dictionary.counts.sum(1) / 100, dictionary.prior)


@pytest.mark.parametrize("threads", [1, 2])
def test_prototypes_are_those_of_a_plain_sum_bit_for_bit(threads: int) -> None:
    rows = torch.randn(5000, 7) * 10 ** torch.empty(5000, 1).uniform_(-4, 4)  # more than one part
    found = kmeans(rows.numpy(), 20, iterations=25, restarts=1, seed=3).assignment
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    prototypes = fit(rows, 20, seed=3).prototypes
    torch.set_num_threads(before)
    assert torch.equal(prototypes, plain_prototypes(rows, torch.from_numpy(found), 20))


def test_the_prior_is_a_descending_distribution_of_counts() -> None:
    dictionary = fit(torch.randn(333, 4), 20)
    assert dictionary.prior.dtype == dictionary.prototypes.dtype == torch.float32
    torch.testing.assert_close(dictionary.prior.sum(), torch.tensor(1.0))
    assert (dictionary.prior > 0).all()
    assert (dictionary.prior.diff() <= 0).all()
    counts = dictionary.prior * 333
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-3)


def test_prototypes_average_to_the_mean_of_all_predictions() -> None:
    rows = torch.randn(333, 4)
    dictionary = fit(rows, 20)
    torch.testing.assert_close(dictionary.prior @ dictionary.prototypes, rows.mean(0))


def test_one_prototype_is_the_mean() -> None:
    rows = torch.randn(50, 4)
    dictionary = fit(rows, 1)
    torch.testing.assert_close(dictionary.prototypes, rows.mean(0, keepdim=True))
    assert dictionary.prior.tolist() == [1.0]


def test_as_many_prototypes_as_distinct_predictions_reproduce_them() -> None:
    rows = CENTRES[[0, 1, 1, 2, 2, 2]]
    dictionary = fit(rows, 3)
    assert torch.equal(dictionary.prototypes, CENTRES[[2, 1, 0]])
    torch.testing.assert_close(dictionary.prior, torch.tensor([3, 2, 1]) / 6)


@pytest.mark.parametrize("prototypes", ["kmeans", "random"])
def test_repeats_bit_for_bit_from_the_seed(prototypes: str) -> None:
    rows = torch.randn(300, 4)
    first, again, other = (fit(rows, 12, seed=seed, prototypes=prototypes) for seed in (3, 3, 4))
    assert torch.equal(first.prototypes, again.prototypes)
    assert torch.equal(first.prior, again.prior)
    assert not torch.equal(first.prototypes, other.prototypes)


def test_too_many_prototypes_are_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"got 11 > 10 of 10; lower kdci\.N") as caught:
        fit(torch.randn(10, 4), 11)
    assert "collapsed" not in str(caught.value)


def test_collapsed_predictions_are_called_that() -> None:
    rows = torch.randn(3, 4).repeat(10, 1)
    with pytest.raises(UserError, match=r"got 4 > 3 of 30 \(.* has collapsed\)"):
        fit(rows, 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_refused(bad: float) -> None:
    rows = torch.randn(10, 4)
    rows[3, 2] = bad
    with pytest.raises(UserError, match="finite teacher predictions"):
        fit(rows, 2)


def test_prototypes_are_not_projected() -> None:
    rows = blobs(20, 50, 30)
    projected, plain = fit(rows, 3, pca_dim=2), fit(rows, 3)
    torch.testing.assert_close(projected.prototypes, plain.prototypes)
    torch.testing.assert_close(projected.prior, plain.prior)


def test_clusters_are_sought_where_pca_looks() -> None:
    wide = 100 * torch.tensor([-1.0, 1.0]).repeat(50)
    narrow = torch.tensor([-1.0, 1.0]).repeat_interleave(50)
    rows = torch.stack([wide, narrow], 1) + 0.01 * torch.randn(100, 2)
    dictionary = fit(rows, 2, pca_dim=1)
    expected = torch.stack([rows[wide == side].mean(0) for side in (-100, 100)])
    order = dictionary.prototypes[:, 0].argsort()
    torch.testing.assert_close(dictionary.prototypes[order], expected)


@pytest.mark.parametrize("pca_dim", [0, 4, 5])
def test_a_pca_that_does_not_reduce_is_refused(pca_dim: int) -> None:
    with pytest.raises(UserError, match=rf"below the width 4 .*, but got {pca_dim}"):
        fit(torch.randn(20, 4), 2, pca_dim=pca_dim)


@pytest.mark.parametrize("pca_dim", [6, 7, 9])
def test_a_pca_beyond_what_the_rows_span_is_refused_with_both_numbers(pca_dim: int) -> None:
    with pytest.raises(UserError, match=rf"but got {pca_dim} >= 6; .*set it to null, or raise"):
        fit(torch.randn(6, 10), 2, pca_dim=pca_dim)


def test_a_pca_of_all_that_the_rows_span_keeps_their_distances() -> None:
    rows = torch.randn(6, 10)
    projected = torch.from_numpy(project(rows.numpy(), 5))
    torch.testing.assert_close(torch.cdist(projected, projected), torch.cdist(rows, rows))
    assert fit(rows, 6, pca_dim=5).prior.tolist() == [pytest.approx(1 / 6)] * 6


def test_predictions_too_large_for_float32_are_refused() -> None:
    rows = torch.randn(20, 4)
    rows[0, 0] = 1e17
    assert fit(rows, 2).provenance["inertia"]
    rows[0, 0] = -3e19
    with pytest.raises(UserError, match=r"squared distances .* reach 3e\+19; check the teacher"):
        fit(rows, 2)


def test_predictions_that_pca_makes_equal_are_refused() -> None:
    rows = torch.zeros(40, 4)
    rows[:, 0] = torch.arange(2.0).repeat(20)
    rows[:20, 1] = 1e-3  # four distinct rows, but only two along the first direction
    with pytest.raises(UserError, match=r"non-empty clusters.*kdci.dictionary.pca_dim=null"):
        fit(rows, 4, pca_dim=1)


def test_random_prototypes_have_the_moments_of_the_true_ones() -> None:
    rows = 5 + torch.randn(4000, 3) * torch.tensor([1.0, 3.0, 0.2])
    true, random = fit(rows, 800, iterations=2), fit(rows, 800, iterations=2, prototypes="random")
    assert torch.equal(true.prior, random.prior)
    assert not torch.equal(true.prototypes, random.prototypes)
    torch.testing.assert_close(
        random.prototypes.mean(0), true.prototypes.mean(0), rtol=0.05, atol=0.1
    )
    torch.testing.assert_close(random.prototypes.std(0), true.prototypes.std(0), rtol=0.1, atol=0)


def test_random_prototypes_are_drawn_from_the_seed() -> None:
    rows = blobs(20, 50, 30)
    true, other = fit(rows, 3, seed=3).prototypes, fit(rows, 3, seed=4).prototypes
    torch.testing.assert_close(true, other)  # the clusters are the same
    drawn = [fit(rows, 3, seed=seed, prototypes="random").prototypes for seed in (3, 4)]
    assert ((drawn[0] - drawn[1]).abs() > 0.1).any()


def test_half_precision_predictions_are_clustered_in_float32() -> None:
    rows = torch.randn(50, 4).half()
    assert torch.equal(fit(rows, 5).prototypes, fit(rows.float(), 5).prototypes)


def test_the_provenance_says_what_was_clustered_and_how() -> None:
    facts = KMeans(5, seed=7).fit(torch.randn(50, 4), data_key="k")
    expected = {"N": 5, "space": "logits", "seed": 7, "num_predictions": 50}
    assert facts.provenance.items() >= (expected | {"data_key": "k", "pca_dim": None}).items()
    assert facts.provenance["inertia"][0] > facts.provenance["inertia"][-1] > 0
    assert facts.provenance["faiss"]


def test_predictions_are_logits_or_features() -> None:
    recording = Recording([], torch.randn(2, 3), torch.randn(2, 8))
    assert predictions_of(recording, "logits") is recording.logits
    assert predictions_of(recording, "features") is recording.features


def test_saving_and_loading_keeps_everything(tmp_path: Path) -> None:
    made = KMeans(5).fit(torch.randn(50, 4), teacher_sha256="cd" * 32)
    made.save(tmp_path / "d.safetensors")
    read = ConfounderDictionary.load(
        tmp_path / "d.safetensors", teacher_sha256="cd" * 32, space="logits", dim=4
    )
    assert torch.equal(read.prototypes, made.prototypes)
    assert torch.equal(read.prior, made.prior)
    assert read.provenance == made.provenance


def test_another_teacher_space_or_width_is_refused(saved: Path) -> None:
    assert load(saved)
    with pytest.raises(
        UserError, match=r"\(cdcdcdcdcdcd, .*\(abababababab, .*delete it to rebuild"
    ):
        load(saved, sha="cd" * 32)
    with pytest.raises(UserError, match=r", features, .* but it is of .*, logits, "):
        load(saved, space="features")
    with pytest.raises(UserError, match=r"width 5\), but it is of .* width 4\)"):
        load(saved, dim=5)


@pytest.mark.parametrize("damage", ["truncated", "random", "empty", "missing"])
def test_a_damaged_file_is_refused_by_name(saved: Path, damage: str) -> None:
    if damage == "truncated":
        saved.write_bytes(saved.read_bytes()[:-5])
    elif damage == "random":
        saved.write_bytes(bytes(range(200)))
    elif damage == "empty":
        saved.write_bytes(b"")
    else:
        saved.unlink()
    message = "is missing" if damage == "missing" else "cannot be read"
    with pytest.raises(DamagedError, match=rf"dictionary\.safetensors' {message}"):
        load(saved)


def test_no_flipped_bit_goes_unnoticed(saved: Path) -> None:
    whole = saved.read_bytes()
    for position in range(0, len(whole), 3):
        for mask in (1 << position % 8, 0xFF):
            damaged = bytearray(whole)
            damaged[position] ^= mask
            saved.write_bytes(damaged)
            with pytest.raises(DamagedError, match=r"dictionary\.safetensors"):
                load(saved)


def rewrite(path: Path, tensors: dict[str, Tensor], *, keep_digest: bool = True) -> None:
    """The same file with other tensors; with a digest that fits, or with none."""
    with safe_open(path, "pt") as file:
        provenance = json.loads(file.metadata()["provenance"])
        provenance.pop("digest")
        old = {name: file.get_tensor(name) for name in ("prototypes", "prior", "counts")}
    new = ConfounderDictionary(**(old | tensors), provenance=provenance)
    if keep_digest:
        new.save(path)
    else:
        metadata = {"provenance": json.dumps(provenance)}
        tensors = {"prototypes": new.prototypes, "prior": new.prior, "counts": new.counts}
        save_file(tensors, path, metadata=metadata)


NAN = float("nan")


@pytest.mark.parametrize(
    "tensors",
    [
        {"prototypes": torch.full((3, 4), NAN)},
        {"prototypes": torch.zeros(3, 4).index_fill(1, torch.tensor(3), NAN)},
        {"prototypes": torch.full((3, 4), float("inf"))},
        {"prior": torch.tensor([0.5, 0.4, NAN])},
        {"prior": torch.tensor([0.5, 0.4, 0.2])},
        {"prior": torch.tensor([0.5, 0.4, 0.101])},
        {"prior": torch.tensor([0.5, 0.4, 0.099])},
        {"prior": torch.tensor([0.5, 0.5, 0.0])},
        {"prior": torch.tensor([1.5, 0.5, -1.0])},
    ],
)
def test_a_dictionary_that_is_none_is_damaged(saved: Path, tensors: dict[str, Tensor]) -> None:
    rewrite(saved, tensors)
    with pytest.raises(DamagedError, match="not finite, or a prior that is no distribution"):
        load(saved)


def test_a_file_without_a_digest_is_damaged(saved: Path) -> None:
    rewrite(saved, {})
    assert load(saved)
    rewrite(saved, {}, keep_digest=False)
    with pytest.raises(DamagedError, match="digest"):
        load(saved)


def test_a_whole_dictionary_of_unknown_origin_is_refused(saved: Path) -> None:
    fit(blobs(5, 3, 2), 3).save(saved)
    with pytest.raises(UserError, match="of this teacher") as caught:
        load(saved)
    assert not isinstance(caught.value, DamagedError)
