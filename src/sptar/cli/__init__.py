"""The command line: parse, load the config, call a step, print. Heavy imports happen inside."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the command ``sptar``."""
    from sptar.cli.app import run_application

    sys.exit(run_application(sys.argv[1:]))
