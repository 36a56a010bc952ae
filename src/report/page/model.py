"""What a page is made of, before anything is drawn or written."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from src.report.block import Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plot(NamedTuple):
    """A figure of numbers.

    Attributes:
        name: Of its file, without a suffix; unique in its section.
        caption: What is seen, for everybody.
        alt: What it says, for those who do not see it.
        figure: Not drawn yet.
    """

    name: str
    caption: str
    alt: str
    figure: "Figure"


class Picture(NamedTuple):
    """A grid of images.

    Attributes:
        caption: What is seen.
        uri: The image itself as ``data:``.
        width: Pixels.
        height: Pixels.
    """

    caption: str
    uri: str
    width: int
    height: int


@dataclass
class Topic:
    """What stands below one heading; without tables, plots and pictures it is left out."""

    heading: str
    tables: list[Part] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Nothing to be shown."""
        return not (self.tables or self.plots or self.pictures)


class Section(NamedTuple):
    """Topics of runs that can be compared: one data set, budget, mode, teacher and student.

    Attributes:
        title: Heading.
        name: Of its anchor; unique on a page.
        topics: None of them empty.
    """

    title: str
    name: str
    topics: list[Topic]
