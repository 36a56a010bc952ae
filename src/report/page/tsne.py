"""The plane of what a vanilla student and one with KDCI see: t-SNE of their features."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.report.aggregate import Row
from src.report.block import Block
from src.report.page.inside_figure import scatter
from src.report.page.leftover import read_features
from src.report.page.model import Plot, Topic

_MOST_POINTS = 1000  # seconds grow faster than points
_SEED, _PERPLEXITY = 0, 30.0

_Features = tuple[NDArray[np.float64], NDArray[np.int64]]


def tsne(block: Block, vanilla: Mapping[str, str]) -> Topic:
    """Vanilla beside KDCI, of the first baseline and seed for which both left features.

    Args:
        block: Its rows.
        vanilla: Of the folder of a run with KDCI, that of its vanilla run.
    """
    topic = Topic("Features of the students")
    for baseline, rows in groupby(block.rows, key=lambda row: row.baseline):
        found = _pair(rows, vanilla)
        if found is not None:
            seed, features = found
            topic.plots.append(_plot(baseline, seed, features))
            break
    return topic


def _pair(
    rows: Iterable[Row], vanilla: Mapping[str, str]
) -> tuple[int, dict[str, _Features]] | None:
    for row in rows:
        for seed, folder in zip(row.seeds, row.folders, strict=True):
            if folder not in vanilla:
                continue
            pair = (read_features(Path(vanilla[folder])), read_features(Path(folder)))
            if pair[0] is not None and pair[1] is not None:
                title = f"{row.kdci}, N={row.num_prototypes or '-'}"
                return seed, {"vanilla": pair[0], title: pair[1]}
    return None


def _plot(baseline: str, seed: int, features: Mapping[str, _Features]) -> Plot:
    cut = {title: (x[:_MOST_POINTS], y[:_MOST_POINTS]) for title, (x, y) in features.items()}
    figure = scatter(
        {title: embed(x) for title, (x, _) in cut.items()}, {t: y for t, (_, y) in cut.items()}
    )
    points = max(len(x) for x, _ in cut.values())
    caption = (
        f"{baseline}, seed {seed}: features of up to {points} test images in the plane (t-SNE, "
        f"perplexity {_PERPLEXITY:g}, seed {_SEED}), coloured by class. Distances between "
        "clusters mean little."
    )
    alt = "Two clouds of points, vanilla beside KDCI, coloured by class."
    return Plot(f"features_{baseline}", caption, alt, figure)


def embed(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[n, d]`` in the plane, ``[n, 2]``; the same for the same input."""
    from sklearn.manifold import TSNE

    if len(features) < 3:
        return np.zeros((len(features), 2))
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    method: Any = TSNE(perplexity=perplexity, random_state=_SEED, init="random")
    plane: NDArray[np.float64] = method.fit_transform(features)
    return plane
