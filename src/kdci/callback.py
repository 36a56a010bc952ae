"""The confounder dictionary at the end of stage (a)."""

from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from src.kdci.builder import DictionaryBuilder
from src.kdci.dictionary import ConfounderDictionary
from src.substitution.module import SubstitutionModule


class ConfounderDictionaryCallback(Callback):
    """Builds the dictionary of what stage (a) has recorded, when its fit ends.

    Args:
        builder: How, and where it is kept.

    Attributes:
        dictionary: What was built; None before the end.
    """

    def __init__(self, builder: DictionaryBuilder) -> None:
        self.builder = builder
        self.dictionary: ConfounderDictionary | None = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build."""
        self.dictionary = self.builder.build(cast("SubstitutionModule", pl_module).recording())
