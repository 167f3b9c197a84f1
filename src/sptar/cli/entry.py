"""The entry point of the command `sptar`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the command ``sptar``."""
    from sptar.cli.app import run_application
    from sptar.cli.output import finish_streams, prepare_streams
    from sptar.executors.torchrun import launched_from_outside, leave

    prepare_streams()
    if not launched_from_outside():
        sys.exit(finish_streams(run_application(sys.argv[1:])))
    from sptar.steps.train_worker import with_others

    # A process that aborts at its end would end the others, see `reporting`.
    leave(finish_streams(with_others(lambda: run_application(sys.argv[1:]))))
