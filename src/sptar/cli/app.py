"""All verbs in one application, and the one place where errors become sentences."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from sptar.cli import (
    compare,
    data,
    doctor,
    export,
    fuse,
    import_weak,
    plan,
    report,
    run,
    search,
    status,
    step_verbs,
    verify,
)
from sptar.cli.output import let_go, say
from sptar.errors import SptarError

__all__ = ["application", "run_application"]

_INTERRUPTED = 130

application = typer.Typer(
    name="sptar",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Soft prompt tuning to augment dense retrieval: from a few labelled queries to a trained, "
    "tested domain retriever.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from sptar import __version__

        print(f"sptar {__version__}")
        raise typer.Exit


@application.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the whole traceback of an error."),
    version: bool = typer.Option(
        False,
        "--version",
        is_eager=True,
        callback=_print_version,
        help="Print the version and leave.",
    ),
) -> None:
    """Options of every verb."""


application.command("run")(run.run)
application.command("plan")(plan.plan)
application.command("status")(status.status)
application.command("verify")(verify.verify)
step_verbs.register(application)
application.command("compare")(compare.compare)
application.command("fuse")(fuse.fuse)
application.command("import-weak")(import_weak.import_weak)
application.command("report")(report.report)
application.command("search")(search.search)
application.add_typer(data.application, name="data")
application.add_typer(export.application, name="export")
application.add_typer(doctor.application, name="doctor")


def _quiet_libraries() -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _interrupted(signals: Sequence[int]) -> int:
    say("Stopped. Type the same command again to go on where it stopped.")
    return 128 + signals[0] if signals else _INTERRUPTED


@contextmanager
def _stopped_by_signals() -> Iterator[list[int]]:
    """SIGTERM (a request to end) and SIGHUP (the terminal is gone) stop a command as Ctrl-C does.

    Gives the signals that came. One that is ignored (``nohup``) stays so, and a second one does not
    disturb the cleaning up after the first.
    """
    came: list[int] = []

    def stop(number: int, frame: object) -> None:
        came.append(number)
        if len(came) == 1:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _output_is_gone() -> bool:
    """Whether nobody reads what is printed (``| head``); a pipe to a worker is another matter."""
    try:
        for stream in (sys.stdout, sys.stderr):
            # Typer puts a wrapper around both that says nothing of such a pipe.
            getattr(stream, "wrapped", stream).flush()
    except BrokenPipeError:
        return True
    return False


def _broken_pipe(error: BrokenPipeError) -> int:
    if not _output_is_gone():
        return _lacking(str(error))
    let_go(sys.stdout)
    let_go(sys.stderr)
    return 0


def _lacking(what: str) -> int:
    say(f"Error: {what}. Mend that and type the same command again: finished work is kept.")
    return 2


def run_application(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code.

    0 done, 1 a bug (or what a check looked for was found), 2 a user's error, 130 stopped by Ctrl-C,
    143 by a request to end, 129 with its terminal.
    """
    with _stopped_by_signals() as signals:
        return _run(arguments, signals)


def _run(arguments: Sequence[str], signals: Sequence[int]) -> int:
    _quiet_libraries()
    debug = "--debug" in arguments
    # The option may stand anywhere: people add it to the end of the line that failed.
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        result = application(args=arguments, prog_name="sptar", standalone_mode=False)
        # Typer turns an interrupt into this number before it can be caught.
        return _interrupted(signals) if result == _INTERRUPTED else int(result or 0)
    except typer.Exit as leave:
        return _interrupted(signals) if leave.exit_code == _INTERRUPTED else int(leave.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted(signals)
    except SystemExit as leave:
        # Typer leaves without a word when it meets any pipe that is broken.
        if not isinstance(leave.__context__, BrokenPipeError):
            raise
        return _broken_pipe(leave.__context__)
    except SptarError as error:
        if debug:
            raise
        say(f"Error: {error}")
        return 2
    except (OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):
            return _broken_pipe(error)
        if debug:
            raise
        return _lacking(str(error) or "there is not enough memory")
    except Exception as error:
        # Wrong words on the command line: typer's own click and the separate package raise classes
        # of different names that look the same.
        if hasattr(error, "show") and hasattr(error, "format_message"):
            try:
                error.show()
            except BrokenPipeError:
                let_go(sys.stderr)
            return 2
        if debug:
            raise
        say(
            f"Error: this should not have happened ({type(error).__name__}: {error}). Please "
            "report it with the traceback that the option --debug shows."
        )
        return 1
