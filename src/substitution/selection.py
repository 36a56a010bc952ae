"""How much of an unlabeled pool is selected."""

import logging
from typing import Annotated

from pydantic import Field, PositiveInt

_log = logging.getLogger(__name__)

PoolShare = PositiveInt | Annotated[float, Field(gt=0, lt=1)]
"""A number of images, or a fraction of the pool."""


def selected_count(share: PoolShare, pool_size: int) -> int:
    """Images to select: ``share`` itself, or that fraction of the pool, rounded, one at least.

    More than there are is the whole pool, with a warning.
    """
    if share > pool_size:
        _log.warning("The pool has %d images, %d were asked for", pool_size, share)
    return count_of(share, pool_size)


def count_of(share: PoolShare, pool_size: int) -> int:
    """The same without a warning."""
    if isinstance(share, float):
        return max(1, round(share * pool_size))
    return min(share, pool_size)
