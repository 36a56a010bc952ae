"""One line per run: what it was, what came out, and where that is from; for a table to publish."""

from collections.abc import Iterable
from dataclasses import dataclass

from src.report.aggregate import order, paired_gains, unevenness_of
from src.report.anonymous import anonymous
from src.report.apart import tell_apart
from src.report.collection import Found
from src.report.cost import Cost, cost_of
from src.report.summary import Summary


@dataclass(frozen=True)
class Record:
    """One finished run. Accuracies are percent on the test split. No folder, no host.

    Attributes:
        dataset: Name of the data set.
        budget: Name of the budget.
        recipe: Name of the recipe; ``None`` where the lengths are no recipe's.
        mode: ``replay`` or ``online`` substitution data.
        precision: Of the networks' arithmetic.
        teacher: Name of the teacher network.
        teacher_acc1: Accuracy of the teacher.
        student: Name of the student network.
        baseline: Name of the data-free method.
        kdci: Name of the compensation, ``none`` for the vanilla baseline.
        num_prototypes: N, empty for the vanilla baseline.
        settings: Whatever else tells this run from its neighbours, as ``key=value``.
        seed: The seed.
        last: Accuracy of the plain student after the last epoch.
        best: Best accuracy of an evaluation.
        compensated: Accuracy with the compensation left on at test time.
        stage_a_acc1: Accuracy of the student trained alongside stage (a).
        gain: ``last`` less that of the vanilla run of the same seed; ``None`` without one.
        images: Substitution images.
        unevenness: Divergence of the classes that the teacher predicts for them from equal
            shares, in nats; ``None`` if it was not recorded.
        adjustment: What the compensation found for itself, as ``key=value``.
        stage_a: Cost of stage (a), if the run made it.
        dictionary: Cost of the confounder dictionary, if the run built it.
        stage_b: Cost of stage (b).
        device: What it was measured on.
        ranks: Processes.
        commit: Revision of the source; ``None`` where there was no repository.
        run: Its identity, which is the name of its folder.
        started: ISO 8601, UTC.
    """

    dataset: str
    budget: str
    recipe: str | None
    mode: str
    precision: str | None
    teacher: str
    teacher_acc1: float
    student: str
    baseline: str
    kdci: str
    num_prototypes: str
    settings: tuple[str, ...]
    seed: int
    last: float
    best: float
    compensated: float | None
    stage_a_acc1: float | None
    gain: float | None
    images: int | None
    unevenness: float | None
    adjustment: tuple[str, ...]
    stage_a: Cost
    dictionary: Cost
    stage_b: Cost
    device: str
    ranks: int
    commit: str | None
    run: str
    started: str | None


def records(summaries: Iterable[Summary]) -> list[Record]:
    """Every finished run once, in the order of the tables, then of seeds.

    Settings that are paths are shown as hashes.

    Raises:
        UserError: If two runs are the same in everything, seed included, but their results.
    """
    finished = [summary for summary in summaries if summary["status"] == "finished"]
    runs = tell_apart(anonymous(Found(finished, [])).summaries)
    pairs = zip(runs, paired_gains(runs), strict=True)
    found = []
    for run, gain in sorted(pairs, key=lambda pair: (order(pair[0]), pair[0].summary["seed"])):
        summary = run.summary
        accuracy, adjustment = summary["acc1"], summary.get("adjustment") or {}
        found.append(
            Record(
                dataset=summary["dataset"],
                budget=summary["budget"],
                recipe=summary.get("recipe"),
                mode=summary["substitution"]["mode"],
                precision=summary.get("precision"),
                teacher=summary["teacher"]["name"],
                teacher_acc1=summary["teacher"]["acc1"],
                student=summary["student"]["name"],
                baseline=summary["baseline"],
                kdci=run.kind,
                num_prototypes=run.num_prototypes,
                settings=(*run.others, *run.options),
                seed=summary["seed"],
                last=accuracy["last"],
                best=accuracy["best"],
                compensated=accuracy.get("compensated"),
                stage_a_acc1=accuracy.get("stage_a"),
                gain=gain,
                images=summary["substitution"].get("images"),
                unevenness=unevenness_of(summary),
                adjustment=tuple(f"{name}={value}" for name, value in adjustment.items()),
                stage_a=cost_of("stage_a", [summary]),
                dictionary=cost_of("dictionary", [summary]),
                stage_b=cost_of("stage_b", [summary]),
                device=summary["device"],
                ranks=summary.get("world_size", 1),
                commit=summary.get("git_revision"),
                run=summary["identity"]["run"],
                started=summary.get("started"),
            )
        )
    return found
