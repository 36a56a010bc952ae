"""What one rank takes of the batches of a run."""

from src.config.schema import RunConfig


def of_a_rank(config: RunConfig) -> RunConfig:
    """The configuration with each batch size divided among the ranks.

    Of a baseline, the option ``batch_size``, where it is a number.
    """
    ranks, baseline, fit = config.trainer.ranks, config.baseline, config.teacher.fit
    size = baseline.get("batch_size")
    if type(size) is int:
        baseline = {**baseline, "batch_size": size // ranks}
    distill = {"batch_size": config.distill.batch_size // ranks}
    fit = fit.model_copy(update={"batch_size": fit.batch_size // ranks})
    return config.model_copy(
        update={
            "baseline": baseline,
            "distill": config.distill.model_copy(update=distill),
            "teacher": config.teacher.model_copy(update={"fit": fit}),
        }
    )
