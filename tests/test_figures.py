"""What docs/does-it-help.md says of gains is what the runs in docs/results gave."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from types import MappingProxyType

import pytest
from scipy.stats import linregress
from scipy.stats import t as student_t

from src.common.package import ROOT
from src.report.gain import Gain, gain_of

_TEXT = (ROOT / "docs" / "does-it-help.md").read_text()
_PAGE = _TEXT.replace("**", "")
_README = (ROOT / "README.md").read_text().replace("**", "")
_BASELINES = ("dafl", "dfnd", "fast", "cmi", "deepinv", "mosaickd")
_ABLATION = {
    "random lambda": "random_attention",
    "random z": "random_prototypes",
    "no P(z)": "uniform_prior",
}
_N = {"N": "16"}
_BANKS = {"code": "09a1bf6"}
_FORM = {
    "adjustment.attention": "additive",
    "adjustment.expectation": "geometric",
    "adjustment.fusion": "residual",
    "adjustment.projection": "learned",
    "adjustment.renormalise": "false",
    "adjustment.strength": "1",
    "lr_scale": "1",
}
_READINGS = ("", "attention=dot", "attention=cosine", "fusion=linear")
_MORE_READINGS = ("projection=identity", "expectation=arithmetic")
_AT_100 = [f"adjustment.{each}" for each in (*_READINGS[1:], "projection=identity")]
_AT_100 += ["adjustment.renormalise=true"]


@dataclass(frozen=True)
class Runs:
    """Runs of one file in docs/results: of a baseline, and what it is adjusted by."""

    file: str
    baseline: str
    kdci: str = "none"
    seeds: range = range(100)
    settings: Mapping[str, str] = field(default_factory=dict)
    column: str = "last"

    def accuracies(self) -> dict[int, float]:
        """Accuracy by seed, of the plain student after the last epoch if nothing else is asked."""
        return {seed: float(run[self.column]) for seed, run in self.by_seed().items()}

    def by_seed(self) -> dict[int, dict[str, str]]:
        """The lines of the file."""
        with (ROOT / "docs" / "results" / f"{self.file}.csv").open() as lines:
            meant = [run for run in csv.DictReader(lines) if self._has(run)]
        found = {int(run["seed"]): run for run in meant}
        assert len(found) == len(meant), f"two runs of a seed among {self}"
        return found

    def _has(self, run: Mapping[str, str]) -> bool:
        pairs = (each.partition("=") for each in (run.get("settings") or "").split(";"))
        # A file does not name what is the same in all its runs, and by default.
        own = {**_FORM, "N": run.get("num_prototypes"), **run}
        own |= {key: value for key, _, value in pairs}
        return (
            (run["baseline"], run["kdci"]) == (self.baseline, self.kdci)
            and int(run["seed"]) in self.seeds
            and all(own.get(key) == value for key, value in self.settings.items())
        )


# Heading, how the row begins, the gain's column, adjusted, vanilla.
Claim = tuple[str, str, str, Runs, Runs]
_ADJUSTED, _VANILLA = ("KDCI, N = 16", "adjusted", "weighting"), ("vanilla", "none")


def _form() -> Iterator[Claim]:
    for baseline in _BASELINES:
        of = Runs("digits_laptop", baseline)
        yield "The paper's form", f"digits | {baseline}", "gain", _by("backdoor", of, _N), of
    for row, of in {
        "dfnd, seeds 0 to 3": Runs("cifar10_dfnd", "dfnd", seeds=range(4)),
        "dfnd, seeds 4 to 7": Runs("cifar10_dfnd", "dfnd", seeds=range(4, 8)),
        "dfnd, four times as long": Runs("cifar10_dfnd_long", "dfnd"),
        "dfnd, another pool": Runs("cifar10_dfnd_objects", "dfnd"),
        **{each: Runs("cifar10_generators", each) for each in ("dafl", "cmi")},
        **{each: Runs("cifar10_present", each) for each in ("fast", "deepinv")},
        "mosaickd": Runs("cifar10_mosaickd", "mosaickd"),
    }.items():
        yield "The paper's form", f"CIFAR-10 | {row}", "gain", _by("backdoor", of), of


def _ablations() -> Iterator[Claim]:
    for row, kdci in _ABLATION.items():
        for data, of in (
            ("CIFAR-10, dfnd", Runs("cifar10_dfnd", "dfnd")),
            ("digits, dafl", Runs("digits_laptop", "dafl")),
        ):
            form = _by("backdoor", of, _N)
            for column, against in (("against vanilla", of), ("against the full form", form)):
                yield "The ablations", f"{data} | {row}", column, _by(kdci, of), against


def _readings() -> Iterator[Claim]:
    for column, baseline in {"DAFL": "dafl", "DFND": "dfnd", "MosaicKD": "mosaickd"}.items():
        of = Runs("digits_option_grid", baseline)
        for reading in (*_READINGS, *(() if baseline == "mosaickd" else _MORE_READINGS)):
            key, _, value = reading.partition("=")
            changed = {f"adjustment.{key}": value} if reading else {}
            row = f"`{reading}`" if reading else "("
            adjusted = _by("backdoor", of, {**_FORM, **changed})
            yield "No other reading", row, column, adjusted, of
    of = Runs("cifar10_dfnd", "dfnd", seeds=range(4, 8))
    for reading in ("", *_READINGS[1:], *_MORE_READINGS):
        key, _, value = reading.partition("=")
        grid = replace(of, file="cifar10_dfnd_option_grid") if reading else of
        changed = {**_FORM, f"adjustment.{key}": value} if reading else {}
        row = f"`{reading}`" if reading else "("
        yield "No other reading", row, "DFND, CIFAR-10", _by("backdoor", grid, changed), of


def _others() -> Iterator[Claim]:
    heading = "Other estimators"
    for baseline in _BASELINES:
        of = Runs("digits_laptop", baseline)
        row = f"digits | {baseline}{', shared' if baseline == 'mosaickd' else ''} | weighting"
        drawn = replace(of, file="digits_adjustments")
        yield heading, row, "gain", _by("weighting", drawn, {"pool.class_ratio": ""}), of
    for row, of, kdci, settings in (
        *(
            (f"digits | {each}, present code", Runs("digits_present", each), "weighting", {})
            for each in ("dfnd", "dafl")
        ),
        ("digits | mosaickd |", Runs("digits_mosaickd_banks", "mosaickd"), "weighting", _BANKS),
        ("CIFAR-10 | mosaickd | weighting", Runs("cifar10_mosaickd", "mosaickd"), "weighting", {}),
        ("CIFAR-10 | dfnd | weighting", Runs("cifar10_dfnd", "dfnd"), "weighting", {}),
        ("CIFAR-10 | dfnd | prior", Runs("cifar10_dfnd", "dfnd", seeds=range(4)), "prior", {}),
        ("CIFAR-10 | dfnd, four times", Runs("cifar10_dfnd_long", "dfnd"), "weighting", {}),
        ("CIFAR-10 | dfnd, another pool", Runs("cifar10_dfnd_objects", "dfnd"), "weighting", {}),
        ("CIFAR-10 | mosaickd, four", Runs("cifar10_mosaickd_long", "mosaickd"), "weighting", {}),
        ("CIFAR-10 | dafl | prior", Runs("cifar10_generators", "dafl"), "prior", {}),
        *(
            (f"CIFAR-10 | {each} | prior |", Runs("cifar10_present", each), "prior", {})
            for each in ("fast", "mosaickd", "deepinv", "cmi")
        ),
        ("CIFAR-10, float32 | dfnd", Runs("cifar10_laptop", "dfnd"), "weighting", {}),
        ("CIFAR-10, float32 | mosaickd", Runs("cifar10_laptop", "mosaickd"), "weighting", {}),
        *(
            (f"CIFAR-10 | {each} | weighting", Runs("cifar10_generators", each), "weighting", {})
            for each in ("dafl", "cmi", "fast", "deepinv")
        ),
    ):
        yield heading, row, "gain", _by(kdci, of, settings), of

    for baseline in ("deepinv", "cmi"):
        of = Runs("cifar10_present", baseline)
        row = f"CIFAR-10 | {baseline} | prior, strength 0.001"
        yield heading, row, "gain", Runs("cifar10_null", baseline, "prior"), of


def _known_shift() -> Iterator[Claim]:
    heading = "Data whose shift is known"
    for ratio in ("1", "2", "5", "20", "100"):
        of = Runs("digits_adjustments", "dfnd", "none", range(4), {"pool.class_ratio": ratio})
        yield heading, f"{ratio} |", "gain, four pairs", replace(of, kdci="weighting"), of
    for ratio in ("1", "20", "100"):
        of = Runs("cifar10_controlled", "dfnd", settings={"pool.class_ratio": ratio})
        for kdci in ("weighting", "backdoor"):
            row = f"{ratio} : 1 | {kdci}"
            yield "On CIFAR-10, where", row, "gain", replace(of, kdci=kdci), of
    of = Runs("cifar10_controlled_long", "dfnd")
    yield "On CIFAR-10, where", "100 : 1, four", "gain", _by("weighting", of), of
    vanilla = Runs("cifar10_controlled", "dfnd", settings={"pool.class_ratio": "100"})
    other = replace(vanilla, file="cifar10_controlled_readings")
    for kdci, changed in (
        *(("weighting", {"adjustment.strata": each}) for each in ("both", "cluster")),
        ("prior", {}),
        ("standardisation", {}),
        *(("backdoor", dict([each.split("=")])) for each in (*_AT_100, "N=64", "N=auto")),
        ("backdoor", {"adjustment.expectation": "arithmetic", "lr_scale": "0.01"}),
    ):
        words = (f"kdci.{key}={value}" for key, value in changed.items())
        row = f"`{' '.join([kdci, *words])}`"
        defaults = {**_FORM, **_N} if kdci == "backdoor" else {}
        yield "What else gives", row, "gain", _by(kdci, other, {**defaults, **changed}), vanilla
    for row, pool, gamma in (
        ("as it is", {"pool.blur": "0", "pool.noise": "0", "pool.foreign": "0"}, "auto"),
        ("`pool.foreign=0.5", {"pool.foreign": "0.5"}, "auto"),
        ("`pool.noise=64`", {"pool.noise": "64"}, "auto"),
        ("`pool.blur=3`", {"pool.blur": "3"}, "auto"),
        ("the same", {"pool.blur": "3"}, "0.25"),
    ):
        of = Runs("digits_quality", "dfnd", settings=pool)
        adjusted = _by("weighting", of, {**pool, "adjustment.gamma": gamma})
        yield "Quality instead of shares", row, "gain", adjusted, of


def _by(kdci: str, of: Runs, settings: Mapping[str, str] = MappingProxyType({})) -> Runs:
    return replace(of, kdci=kdci, settings=settings)


def _cells(heading: str, row: str) -> dict[str, str]:
    """The one row of a table that begins so, by column; an interval belongs to its gain."""
    section = re.split(r"(?m)^#+ ", _PAGE[_PAGE.index(f"# {heading}") + 2 :])[0]
    return _row(section, row)


def _row(text: str, row: str) -> dict[str, str]:
    lines = text.splitlines()
    (place,) = (n for n, line in enumerate(lines) if line.startswith(f"| {row}"))
    top = next(n for n in range(place, -1, -1) if not lines[n - 1].startswith("|"))
    names, cells = ([cell.strip() for cell in lines[n].split("|")[1:-1]] for n in (top, place))
    found: dict[str, str] = {}
    for name, cell in zip(names, cells, strict=True):
        gain = list(found)[-1] if name == "95% interval" else name
        found[gain] = f"{found[gain]} | {cell}" if name == "95% interval" else cell
    return found


def _said(adjusted: Runs, vanilla: Runs) -> tuple[Gain, str, str, str]:
    """The gain, and what is shown of it, of the adjusted runs and of the vanilla ones."""
    ours, theirs = adjusted.accuracies(), vanilla.accuracies()
    seeds = sorted(ours.keys() & theirs)
    gain = gain_of([ours[seed] - theirs[seed] for seed in seeds])
    shown = f"{gain.mean:+.2f} ± {gain.std:.2f} | {gain.t_low:+.2f} to {gain.t_high:+.2f}"
    return gain, shown, *(_mean_of([each[seed] for seed in seeds]) for each in (ours, theirs))


def _mean_of(values: list[float]) -> str:
    return f"{fmean(values):.2f} ± {stdev(values):.2f}"


@pytest.mark.parametrize("claims", [_form, _ablations, _readings, _others, _known_shift])
def test_gains_are_those_of_the_runs(claims: Callable[[], Iterator[Claim]]) -> None:
    for heading, row, column, adjusted, vanilla in claims():
        cells = _cells(heading, row)
        gain, shown, ours, theirs = _said(adjusted, vanilla)
        assert cells[column].startswith(shown), f"{heading}: {row}: {column}"
        assert int(cells.get("pairs", gain.pairs)) == gain.pairs, f"{heading}: {row}"
        for names, expected in ((_ADJUSTED, ours), (_VANILLA, theirs)):
            told = {cells[name] for name in names if name in cells}
            assert told <= {expected}, f"{heading}: {row}: {names}"
        runs = [*adjusted.by_seed().values()]
        for name in cells.keys() & {"unevenness", "effective", "gamma, effective"}:
            assert cells[name] == _found(name, cells[name], runs), f"{heading}: {row}: {name}"


def _found(name: str, cell: str, runs: list[dict[str, str]]) -> str:
    """What the runs say in the place of a cell, with as many digits: a mean, or the ends."""
    if name == "unevenness":
        return _to(cell, fmean(float(run["unevenness"]) for run in runs))
    strengths = [run.get("adjustment", run.get("strength", "")) for run in runs]
    gammas, shares = (
        sorted(float(found[1]) for each in strengths if (found := re.search(key, each)))
        for key in (r"gamma=([\d.]+)", r"effective=([\d.]+)")
    )
    if not shares:
        return ""
    if name == "gamma, effective":
        return f"{fmean(gammas):.2f}, {fmean(shares):.2f}"
    ends = [f"{shares[0]:.2f}", f"{shares[-1]:.2f}"]
    return " to ".join(dict.fromkeys(ends))


def _to(like: str, value: float) -> str:
    return f"{value:.{len(like.partition('.')[2])}f}"


def test_the_readme_has_the_table_of_the_form() -> None:
    for baseline in _BASELINES:
        of = Runs("digits_laptop", baseline)
        _, shown, ours, theirs = _said(_by("backdoor", of, _N), of)
        cells = _row(_README, f"{baseline} |")
        assert (cells["gain"], cells["KDCI"], cells["vanilla"]) == (shown, ours, theirs)


def test_gains_over_n_are_those_of_the_runs() -> None:
    of = Runs("digits_laptop", "dafl")
    cells = _cells("Why it does so little", "gain |")
    assert len(cells) > 4
    for number, cell in [*cells.items()][1:]:
        gain, *_ = _said(_by("backdoor", of, {"N": number}), of)
        assert cell == f"{gain.mean:+.2f} ± {gain.std:.2f}", number


_DRAWN = Runs("digits_adjustments", "dfnd", "weighting", settings={"pool.class_ratio": ""})
_MADE = Runs("digits_mosaickd_banks", "mosaickd")
_SUMMARY = [  # rows here and in the README; whose gains the columns show
    ("DFND, CIFAR-10", "DFND, CIFAR-10", Runs("cifar10_dfnd", "dfnd")),
    ("the same, four times", "the same, 2,400", Runs("cifar10_dfnd_long", "dfnd")),
    ("the same, another", "the same, 600", Runs("cifar10_dfnd_objects", "dfnd")),
    ("DFND, digits", "DFND, digits", Runs("digits_laptop", "dfnd")),
    ("MosaicKD, CIFAR-10", "MosaicKD, CIFAR-10", Runs("cifar10_mosaickd", "mosaickd")),
    ("MosaicKD, digits", "MosaicKD, digits", Runs("digits_laptop", "mosaickd")),
]
_ELSEWHERE = {  # adjusted, vanilla: where they are not of one file, or of all its seeds
    ("DFND, CIFAR-10", "backdoor"): (
        Runs("cifar10_dfnd", "dfnd", "backdoor", range(4, 8)),
        Runs("cifar10_dfnd", "dfnd"),
    ),
    ("DFND, digits", "weighting"): (_DRAWN, Runs("digits_laptop", "dfnd")),
    ("MosaicKD, digits", "weighting"): (_by("weighting", _MADE, _BANKS), _MADE),
}


@pytest.mark.parametrize("kdci", ["backdoor", "weighting"])
@pytest.mark.parametrize(("here", "there", "runs"), _SUMMARY)
def test_summaries_say_what_the_tables_say(kdci: str, here: str, there: str, runs: Runs) -> None:
    gain, *_ = _said(*_ELSEWHERE.get((here, kdci), (_by(kdci, runs), runs)))
    expected = rf"{re.escape(f'{gain.mean:+.2f} ± {gain.std:.2f}')} \({gain.pairs}[);]"
    for row in (_cells("In short", here), _row(_README, there)):
        (cell,) = (each for name, each in row.items() if f"`kdci={kdci}`" in name)
        assert re.match(expected, cell), here


def _all_claims() -> Iterator[Claim]:
    for claims in (_form, _ablations, _readings, _others, _known_shift):
        yield from claims()
    of = Runs("cifar10_dfnd", "dfnd")
    yield "", "with four that had been selected", "", _by("backdoor", of), of


def test_what_is_said_in_short_stands_in_a_table() -> None:
    """Each gain with its pairs; bold where its interval leaves zero and nobody has selected."""
    gains = [_said(adjusted, vanilla)[0] for *_, adjusted, vanilla in _all_claims()]
    (selected,) = re.findall(r"four that had been selected (\S+ ± \S+ \(\d+\))", _TEXT)
    shown = {f"{gain.mean:+.2f} ± {gain.std:.2f} ({gain.pairs})": gain for gain in gains}
    section = _TEXT[_TEXT.index("## In short") : _TEXT.index("## The paper's form")]
    said = re.findall(r"(\*\*)?([+-][\d.]+ ± [\d.]+)(?:\*\*)? \((\d+)[);]", section)
    assert len(said) > 18
    for bold, gain, pairs in said:
        found = shown[f"{gain} ({pairs})"]
        is_bold = _leaves_zero(found) and f"{gain} ({pairs})" != selected
        assert bool(bold) == is_bold, gain


def _of_all(*pairs: tuple[Runs, Runs]) -> list[float]:
    """Gains of several tables' pairs together."""
    gains = []
    for adjusted, vanilla in pairs:
        ours, theirs = adjusted.accuracies(), vanilla.accuracies()
        gains += [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs)]
    return gains


def _told_in_words() -> dict[str, list[float]]:
    """Gains that stand in no table, but in running text: of which pairs."""
    own, objects = Runs("cifar10_dfnd", "dfnd"), Runs("cifar10_dfnd_objects", "dfnd")
    later = replace(own, seeds=range(4, 8))
    dafl, grid = Runs("digits_laptop", "dafl"), Runs("digits_option_grid", "dfnd")
    linear = {"adjustment.fusion": "linear"}
    shared = _by("weighting", _MADE, {"code": "62762bf"})
    evenly = ("dafl", "fast", "cmi", "deepinv")
    laptop = [Runs("digits_laptop", each) for each in evenly]
    drawn = [Runs("digits_adjustments", each, "weighting") for each in evenly]
    vanilla = [Runs("cifar10_present", each) for each in ("cmi", "deepinv")]
    renormalised = replace(dafl, file="digits_adjustments", kdci="backdoor")
    renormalised = replace(renormalised, settings={"adjustment.renormalise": "true"})
    return {
        "both pools, weighting": _of_all(*((_by("weighting", of), of) for of in (own, objects))),
        "nobody has selected": _of_all(*((_by("backdoor", of), of) for of in (later, objects))),
        **{
            f"new seeds, {each}": _of_all((_by(each, later), _by("backdoor", later)))
            for each in _ABLATION.values()
        },
        "weights that sum to 1": _of_all((renormalised, dafl)),
        "W_h without compensation": _of_all(
            (_by("backdoor", grid, {**linear, "adjustment.strength": "0"}), grid)
        ),
        "W_h at a hundredth": _of_all(
            (_by("backdoor", grid, {**linear, "lr_scale": "0.01"}), grid)
        ),
        "weighting against the form": _of_all((_by("weighting", own), _by("backdoor", own))),
        "the older rule of banks": _of_all((shared, _MADE)),
        **{
            f"CMI and DeepInv, {file}": _of_all(
                *((replace(of, file=file, kdci="prior"), of) for of in vanilla)
            )
            for file in ("cifar10_present", "cifar10_null")
        },
        "generators on digits": _of_all(*zip(drawn, laptop, strict=True)),
    }


def test_gains_in_running_text_are_those_of_the_runs() -> None:
    """Each with a deviation or an interval, wherever it stands."""
    gains = [_said(adjusted, vanilla)[0] for *_, adjusted, vanilla in _all_claims()]
    told = {name: gain_of(pairs) for name, pairs in _told_in_words().items()}
    gains += [*told.values(), *(gain for *_, gain in _of_the_curves())]
    expected = {f"{gain.mean:+.2f} ± {gain.std:.2f}" for gain in gains}
    intervals = {f"({gain.t_low:+.2f} to {gain.t_high:+.2f}": gain for gain in gains}
    words = " ".join(line for line in _PAGE.splitlines() if not line.startswith("|"))
    text = " ".join(words.split())
    found = re.findall(r"[+-][\d.]+ ± [\d.]+\d", text)
    assert len(found) > 20
    assert set(found) <= expected
    within = re.findall(r"([+-][\d.]+)(?: ± [\d.]+)? (\([+-][\d.]+ to [+-][\d.]+\d)", text)
    assert len(within) > 12
    for mean, interval in within:
        assert mean == f"{intervals[interval].mean:+.2f}", interval
    for name, gain in told.items():
        assert f"{gain.mean:+.2f}" in text, name


def test_all_pairs_of_dfnd_are_told_together() -> None:
    gains = _told_in_words()["both pools, weighting"]
    gain = gain_of(gains)
    assert min(gains) > 0
    told = f"each of the twelve pairs of DFND on CIFAR-10, on two pools ({gain.mean:+.2f} ± "
    told += f"{gain.std:.2f}, {gain.t_low:+.2f} to {gain.t_high:+.2f})"
    assert len(gains) == 12
    assert told in " ".join(_PAGE.split())


def _leaves_zero(gain: Gain) -> bool:
    assert gain.t_low is not None
    assert gain.t_high is not None
    return gain.t_low > 0 or gain.t_high < 0


def test_unevenness_in_short_is_that_of_the_runs() -> None:
    for here, _, runs in _SUMMARY:
        cell = _cells("In short", here)["unevenness"]
        assert cell == _found(
            "unevenness",
            cell,
            [*_by("weighting", runs).by_seed().values()] or [*runs.by_seed().values()],
        ), here
    for data, file, baselines in (
        ("digits", "digits_adjustments", ("dafl", "fast", "cmi", "deepinv")),
        ("CIFAR-10", "cifar10_generators", ("dafl", "fast", "cmi", "deepinv")),
    ):
        means = [
            fmean(
                float(run["unevenness"])
                for run in Runs(file, each, "weighting").by_seed().values()
            )
            for each in baselines
        ]
        expected = f"{min(means):.2f} to {max(means):.2f}"
        assert _cells("In short", f"generators, {data}")["unevenness"] == expected


@pytest.mark.parametrize("file", ["digits_adjustments", "cifar10_controlled"])
def test_the_gain_grows_with_unevenness_as_the_runs_say(file: str) -> None:
    pairs = []
    for *_, adjusted, vanilla in _known_shift():
        if vanilla.file == adjusted.file == file and adjusted.kdci == "weighting":
            ours, theirs = adjusted.by_seed(), vanilla.accuracies()
            pairs += [
                (float(run["unevenness"]), float(run["last"]) - theirs[seed])
                for seed, run in ours.items()
            ]
    fit = linregress(*zip(*pairs, strict=True))
    half = student_t.ppf(0.975, len(pairs) - 2) * fit.stderr
    interval = f"({fit.slope - half:+.2f} to {fit.slope + half:+.2f})"
    assert f"grows by {fit.slope:.2f} a nat {interval}" in _PAGE
    said = f"by {fit.slope:.2f} points a nat (least squares over the {len(pairs)} pairs, "
    assert said + interval[1:] in _PAGE


def test_frequent_and_rare_classes_are_told_as_the_runs_say() -> None:
    runs: dict[str, dict[str, list[dict[str, str]]]] = {}
    with (ROOT / "docs" / "results" / "cifar10_controlled_classes.csv").open() as lines:
        for each in csv.DictReader(lines):
            words = [each["kdci"]]
            if each["strata"] not in ("", "class"):
                words.append(f"kdci.adjustment.strata={each['strata']}")
            if each["N"] == "64":
                words.append("kdci.N=64")
            of = runs.setdefault(" ".join(words), {})
            of.setdefault(each["seed"], []).append(each)
    heading, parts = "Rare classes are not learned", (slice(3), slice(7, 10))
    shown: dict[str, list[float]] = {}
    for words, seeds in runs.items():
        means = [
            fmean(float(each["accuracy"]) for classes in seeds.values() for each in classes[part])
            for part in parts
        ]
        assert [*_cells(heading, f"`{words}` |").values()][1:] == [
            f"{each:.1f}%" for each in means
        ]
        shown[words] = means
    assert len(runs) == 7
    for number, words in ((16, "weighting"), (64, "backdoor kdci.N=64")):
        counts = [
            ", ".join(
                str(sum(int(each["prototypes"]) for each in runs[words][seed][part]))
                for seed in ("0", "1", "2")
            )
            for part in parts
        ]
        row = f"prototypes of {number}, seeds 0, 1, 2 |"
        assert [*_cells(heading, row).values()][1:] == counts
    (frequent, rare), (vanilla, none) = shown["weighting"], shown["none"]
    told = (
        f"it {vanilla - frequent:.1f} points of the frequent classes for {rare - none:.1f} of the"
    )
    assert told in " ".join(_PAGE.split())


def _of_the_curves() -> Iterator[tuple[str, int, Gain]]:
    """What by and after how many epochs DFND's long runs are ahead."""
    with (ROOT / "docs" / "results" / "cifar10_long_epochs.csv").open() as lines:
        points = {
            (run["kdci"], int(run["epoch"]), int(run["seed"])): float(run["acc"])
            for run in csv.DictReader(lines)
            if run["baseline"] == "dfnd"
        }
    epochs = sorted({epoch for _, epoch, _ in points})
    for kdci in ("weighting", "backdoor"):
        for epoch in epochs:
            pairs = [points[kdci, epoch, n] - points["none", epoch, n] for n in range(4, 8)]
            yield kdci, epoch, gain_of(pairs)


def test_gains_within_long_runs_are_those_of_the_curves() -> None:
    text = " ".join(_PAGE.split())
    leaving = []
    curves = [*_of_the_curves()]
    for kdci, epoch, gain in curves:
        if _leaves_zero(gain):
            leaving.append((kdci, epoch))
            interval = f"{gain.t_low:+.2f} to {gain.t_high:+.2f}"
            assert f"{gain.mean:+.2f} ± {gain.std:.2f} ({interval}) after {epoch * 60:,}" in text
    assert leaving == [("weighting", 10), ("weighting", 20)]
    epochs = [epoch for kdci, epoch, _ in curves if kdci == "weighting"]
    assert len(epochs) == 8
    assert f"from {epochs[epochs.index(20) + 1] * 60:,} on by nothing that differs" in text


@pytest.mark.parametrize(
    ("row", "file", "vanilla"),
    [
        ("DAFL, digits", "digits_arithmetic", Runs("digits_present", "dafl")),
        ("DFND, digits", "digits_arithmetic", Runs("digits_present", "dfnd")),
        ("DFND, CIFAR-10", "cifar10_dfnd_arithmetic", Runs("cifar10_dfnd", "dfnd")),
    ],
)
def test_the_arithmetic_form_is_told_with_and_without_it(
    row: str, file: str, vanilla: Runs
) -> None:
    adjusted = _by("backdoor", replace(vanilla, file=file))
    cells = _cells("No other reading", f"{row} |")
    for column, name in (("gain", "last"), ("left on", "compensated")):
        _, shown, *_ = _said(replace(adjusted, column=name), vanilla)
        assert cells[column] == shown


def test_two_pairs_are_told_one_by_one() -> None:
    of = Runs("digits_dfnd_long", "dfnd")
    first, second = (f"{gain:+.2f}" for gain in _of_all((_by("weighting", of), of)))
    assert f"{first} and {second}" in _PAGE
    assert f"{first}, {second}" in " ".join(_README.split())


def test_the_readme_tells_what_is_left_of_the_largest_gain() -> None:
    of = Runs("cifar10_controlled_long", "dfnd")
    gain, *_ = _said(_by("weighting", of), of)
    told = f"still ahead by {gain.mean:+.2f} ± {gain.std:.2f} ({gain.t_low:+.2f} to "
    assert f"{told}{gain.t_high:+.2f}, three pairs)" in " ".join(_README.split())


def test_gains_are_bold_where_their_interval_leaves_zero() -> None:
    found = re.findall(r"(\*\*)?[+-][\d.]+ ± [\d.]+(?:\*\*)? \| (\S+) to (\S+) \|", _TEXT)
    assert len(found) > 40
    for bold, low, high in found:
        assert bool(bold) == (float(low) > 0 or float(high) < 0), f"{low} to {high}"
