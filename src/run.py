"""Entry point: ``python -m src.run [group=option] [key=value] [--multirun]``."""

from src.common.signals import heed_signals


def main() -> None:
    """Heed signals from the first moment on, then do as the command line says."""
    heed_signals()
    # Its imports take a second.
    from src.command import command

    command()


if __name__ == "__main__":
    main()
