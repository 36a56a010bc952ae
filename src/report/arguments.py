"""Words of ``python -m src.report``."""

import argparse
from collections.abc import Collection
from pathlib import Path

_DESCRIPTION = "``python -m src.report outputs/``: the table of all runs below the given folders."
_EPILOG = """\
Runs that differ in a setting, in the data or checkpoint that they read, or in the source that
computed them are separate rows; only seeds are averaged over. An unfinished run is listed until
a run of the same settings is finished or begun later; "interrupted" means that the same command
goes on with it. A damaged summary is named and left out, and so are a folder that cannot be read,
and finished runs that are the same in everything, seed included, but their results. Exit code: 0,
or 2 if nothing could be shown, written, discarded or mirrored as asked.
"""


def parser(experiments: Collection[str]) -> argparse.ArgumentParser:
    """The parser.

    Args:
        experiments: What ``--experiment`` can name.
    """
    made = argparse.ArgumentParser(
        prog="python -m src.report", description=_DESCRIPTION, epilog=_EPILOG
    )
    made.add_argument("paths", nargs="+", type=Path, help="run folders, or folders of them")
    made.add_argument("--csv", type=Path, metavar="FILE", help="also write the rows as CSV")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="also write Markdown")
    made.add_argument("--latex", type=Path, metavar="FILE", help="also write LaTeX (booktabs)")
    made.add_argument(
        "--html", type=Path, metavar="FILE", help="also write one page with tables and figures"
    )
    made.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="also write its figures: PNG, PDF and SVG"
    )
    made.add_argument(
        "--tsne", action="store_true", help="with a figure of the students' features; seconds more"
    )
    made.add_argument(
        "--anonymous",
        action="store_true",
        help="with a page that names no host, folder, account or project, for a review or a web "
        "site; commit hashes, dates, devices, classes of plug-ins and the words of errors stay",
    )
    made.add_argument(
        "--experiment",
        choices=experiments,
        help="print what this experiment shows, from the runs that belong to it, instead of all "
        "tables; of the other experiments these are the tables",
    )
    made.add_argument(
        "--runs",
        action="store_true",
        help="one row per run instead of means; --csv then holds what to publish: commit, "
        "identity, date and device of each, no folder and no host",
    )
    made.add_argument(
        "--discard-failed",
        action="store_true",
        help="print no table, but delete the folders of failed runs and say which; interrupted, "
        "running and finished runs stay, and so does, with exit code 2, whatever has no whole "
        "summary that says `failed`",
    )
    made.add_argument(
        "--wandb",
        metavar="PROJECT",
        help="print no table, but log each finished run into this project of Weights & Biases, "
        "from its files and once; nothing is computed again",
    )
    made.add_argument(
        "--wandb-mode",
        choices=("online", "offline"),
        help="offline needs no account, `wandb sync` sends it later; default: WANDB_MODE, online",
    )
    made.add_argument(
        "--wandb-panels",
        action="store_true",
        help="then make or replace the project's report of these runs: tables with gains, sweep, "
        "accuracy over N, curves and cost; online only",
    )
    return made
