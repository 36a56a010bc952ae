"""What Weights & Biases takes for the name of a project."""

from src.common.errors import UserError

_LONGEST, _RESERVED = 128, "/\\#?%:"  # what W&B says of it


def project_name(project: str, option: str) -> str:
    """The same, if W&B takes it.

    Args:
        project: What ``option`` was given.
        option: Where it comes from, for the message.

    Raises:
        UserError: If W&B would not take it.
    """
    if not 0 < len(project.strip()) <= len(project) <= _LONGEST or set(_RESERVED) & set(project):
        raise UserError(
            f"Expected {option} with the name of a project, 1 to {_LONGEST} characters and none "
            f"of {' '.join(_RESERVED)}, but got '{project}'; a team is named by WANDB_ENTITY"
        )
    return project
