"""The command line: parse, load the config, call a step, print. Heavy imports happen inside."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the command ``sptar``."""
    from sptar.cli.app import run_application
    from sptar.executors.torchrun import launched_from_outside, leave

    if not launched_from_outside():
        sys.exit(run_application(sys.argv[1:]))
    from sptar.steps.train_worker import with_others

    # A process that aborts at its end would end the others, see `reporting`.
    leave(with_others(lambda: run_application(sys.argv[1:])))
