"""A script's end: an error that its user can meet becomes one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from sptar.errors import SptarError


def run_command(main: Callable[[], None]) -> None:
    """Run ``main``; exit with status 2 and a sentence for a :class:`~sptar.errors.SptarError`."""
    # The tokenizers warn of their threads in every process that is forked off.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        main()
    except SptarError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
