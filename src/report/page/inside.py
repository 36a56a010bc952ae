"""Topics of what is inside the runs: images, classes, distances, prototypes, features."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from src.report.aggregate import Row
from src.report.apart import VANILLA
from src.report.block import NAMES, Block, Part, names, number, part_of, spread
from src.report.page.inside_figure import class_bars, class_dots, prototypes
from src.report.page.leftover import Fid, Inside, read_inside, read_picture
from src.report.page.model import Picture, Plot, Topic


class _Example(NamedTuple):
    """One run of a baseline, of the row that says most."""

    row: Row
    folder: Path
    inside: Inside

    @property
    def title(self) -> str:
        kdci = "vanilla" if self.row.kdci == VANILLA else f"KDCI {self.row.kdci}"
        count = f", N={self.row.num_prototypes}" if self.row.num_prototypes else ""
        return f"{self.row.baseline}, {kdci}{count}, seed {self.row.seeds[0]}"


def insides(block: Block) -> list[Topic]:
    """Everything that lies beside the summaries of a block; topics may be empty."""
    known = {folder: read_inside(Path(folder)) for row in block.rows for folder in row.folders}
    examples = list(_examples(block.rows, known))
    return [
        Topic("Substitution images", pictures=_pictures(examples, "substitution.png", "images")),
        Topic("Classes", _divergences(block, known), _class_plots(examples)),
        Topic(
            "Distance from the original images",
            [*_fids(block, known), *_inception_fids(block, known)],
        ),
        Topic("Agreement with the teacher", _agreements(block, known), _agreement_plots(examples)),
        Topic(
            "Prototypes",
            plots=_prototype_plots(examples),
            pictures=_pictures(examples, "prototypes.png", "nearest images of each prototype"),
        ),
    ]


def _examples(rows: Sequence[Row], known: dict[str, Inside]) -> Iterator[_Example]:
    """The first run with compensation, else the first one, of each baseline."""
    for _, group in groupby(rows, key=lambda row: row.baseline):
        row = max(group, key=lambda row: row.kdci != VANILLA)  # the first of them
        yield _Example(row, Path(row.folders[0]), known[row.folders[0]])


def _pictures(examples: Sequence[_Example], name: str, what: str) -> list[Picture]:
    found = [(example, read_picture(example.folder / name)) for example in examples]
    return [
        Picture(f"{example.title}: {what}", *picture)
        for example, picture in found
        if picture is not None
    ]


def _class_plots(examples: Sequence[_Example]) -> list[Plot]:
    plots = []
    for example in examples:
        if (classes := example.inside.classes) is None:
            continue
        figure = class_bars(classes.names, classes.original, classes.substitution)
        low, high = np.argmin(classes.substitution), np.argmax(classes.substitution)
        alt = (
            f"Bars. Least frequent class {classes.names[low]}: {classes.substitution[low]:.3f}; "
            f"most frequent class {classes.names[high]}: {classes.substitution[high]:.3f}."
        )
        caption = f"{example.title}: classes of the substitution images, by the teacher, and of "
        plots.append(
            Plot(f"classes_{example.row.baseline}", f"{caption}the original ones.", alt, figure)
        )
    return plots


def _divergences(block: Block, known: dict[str, Inside]) -> list[Part]:
    lines = []
    for row, insides_ in _of_rows(block, known):
        values = [each.classes.divergence for each in insides_ if each.classes]
        if values:
            lines.append((*names(row), str(len(values)), _mean(values, 3)))
    header = (*NAMES, "runs", "divergence")
    return _part("Divergence of the classes from equal shares (KL, nats)", header, lines)


def _fids(block: Block, known: dict[str, Inside]) -> list[Part]:
    found = {folder: inside.fid for folder, inside in known.items()}
    title = (
        "Fréchet distance of the teacher's features (FID); comparable within one extractor and "
        "count only"
    )
    return _distances(block, found, title, "FID")


def _inception_fids(block: Block, known: dict[str, Inside]) -> list[Part]:
    found = {folder: inside.inception_fid for folder, inside in known.items()}
    title = (
        "Fréchet Inception distance from the test split; comparable with a published one of the "
        "same originals, image size, counts and weights only"
    )
    return _distances(block, found, title, "Inception FID")


def _distances(block: Block, found: dict[str, Fid | None], title: str, what: str) -> list[Part]:
    """A line for each extractor and number of images: others cannot be compared."""
    lines = []
    for row in block.rows:
        known = (found[folder] for folder in row.folders)
        fids = sorted((fid for fid in known if fid), key=lambda fid: (fid[0], fid[2:]))
        for key, group in groupby(
            fids, key=lambda fid: (fid.extractor, fid.images, fid.originals)
        ):
            values = [fid.value for fid in group]
            lines.append((*names(row), *map(str, key), str(len(values)), _mean(values)))
    header = (*NAMES, "extractor", "images", "originals", "runs", what)
    return _part(title, header, lines, words=len(NAMES) + 1)


def _agreements(block: Block, known: dict[str, Inside]) -> list[Part]:
    lines = []
    for row, insides_ in _of_rows(block, known):
        values = [each.agreement.overall for each in insides_ if each.agreement]
        if values:
            lines.append((*names(row), str(len(values)), _mean(values, 3)))
    header = (*NAMES, "runs", "agreement")
    return _part("Share of test images that student and teacher call the same", header, lines)


def _agreement_plots(examples: Sequence[_Example]) -> list[Plot]:
    found = {
        example.row.baseline: example.inside.agreement.per_class
        for example in examples
        if example.inside.agreement
    }
    counts = {len(values) for values in found.values()}
    if len(counts) != 1:  # nothing, or not of the same classes
        return []
    known = [example.inside.classes.names for example in examples if example.inside.classes]
    labels = next((each for each in known if len(each) in counts), None)
    labels = labels or [str(place) for place in range(*counts)]
    ranges = [
        f"{name}: {np.nanmin(each):.3f} to {np.nanmax(each):.3f}" for name, each in found.items()
    ]
    of = "; ".join(example.title for example in examples if example.inside.agreement)
    return [
        Plot(
            "agreement",
            f"Share of agreement by class: {of}.",
            f"Dots by class. {'; '.join(ranges)}.",
            class_dots(labels, found, "share of agreement"),
        )
    ]


def _prototype_plots(examples: Sequence[_Example]) -> list[Plot]:
    plots = []
    for example in examples:
        if (found := example.inside.prototypes) is None:
            continue
        caption = (
            f"{example.title}: prior of each prototype and the mean attention it gets, and the "
            "share of each class in its cluster."
        )
        alt = (
            f"{len(found.prior)} prototypes, priors from {min(found.prior):.4f} to "
            f"{max(found.prior):.4f}; a map of prototypes by classes below."
        )
        figure = prototypes(found.prior, found.attention, found.classes)
        plots.append(Plot(f"prototypes_{example.row.baseline}", caption, alt, figure))
    return plots


def _of_rows(block: Block, known: dict[str, Inside]) -> Iterator[tuple[Row, list[Inside]]]:
    for row in block.rows:
        yield row, [known[folder] for folder in row.folders]


def _mean(values: Sequence[float], digits: int = 2) -> str:
    std = stdev(values) if len(values) > 1 else None
    return spread(number(fmean(values), digits), std, digits)


def _part(
    name: str, header: tuple[str, ...], lines: Sequence[tuple[str, ...]], words: int = len(NAMES)
) -> list[Part]:
    return [part_of(name, header, lines, words)] if lines else []
