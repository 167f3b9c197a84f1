"""``sptar plan``: what a run would do, before it does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sptar.cli.options import WORK, Assignments, Config, EqualPairs, Json, Work, load

if TYPE_CHECKING:
    from sptar.config import RunConfig
    from sptar.plan import PlannedWork, Probe

__all__ = ["plan"]


def plan(
    config: Config,
    assignments: Assignments = None,
    equal_pairs: EqualPairs = False,
    work: Work = WORK,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe",
            help="Try the models on a little of the work, to estimate time and memory.",
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Show which steps would run and which are reused, with the time and memory they need."""
    from sptar.cli.output import TerminalProgress, print_json, print_table

    progress = TerminalProgress()
    settings = load(config, assignments, equal_pairs=equal_pairs)
    from sptar.plan import plan as make_plan
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    made = make_plan(settings, Context(Workspace(work), progress), probe=probe)
    if as_json:
        print_json(made.to_json())
        return
    print_table(
        f"Plan of run '{made.name}'",
        ["step", "state", "fingerprint", "methods"],
        [[step.name, step.state, step.fingerprint, ", ".join(step.methods)] for step in made.steps],
    )
    for name, reason in made.left_out.items():
        print(f"{name} is left out: {reason}.")
    if made.refused is not None:
        print(made.refused)
    if made.work is not None:
        _show_work(made.work, settings)
    if made.probe is not None:
        _show_writing(made.probe)
    if made.times:
        parts = [
            f"{found.name} {_duration(found.seconds)}"
            + (f" ({found.steps} steps)" if found.steps > 1 else "")
            for found in made.times
        ]
        print(f"Time: {', '.join(parts)}; about {_duration(made.seconds)} in all.")
        print(
            "From short trials on this machine. Tuning and training are counted with all their "
            "epochs and end sooner when they stop improving."
        )
        if made.not_counted:
            print(f"Not counted: {', '.join(made.not_counted)}.")


def _show_writing(found: Probe) -> None:
    prompt = "prompt tuned" if found.tuned else "prompt not tuned yet"
    print(
        f"Writing: about {found.documents_per_second:.1f} documents a second "
        f"({found.documents} tried, {prompt}), so about {_duration(found.seconds)} for "
        f"{found.documents_to_write:,} weak queries."
    )
    free = (
        "" if found.available_bytes is None else f"; free now: {_gigabytes(found.available_bytes)}"
    )
    print(
        f"Memory: weights {_gigabytes(found.model_bytes)}, cache of a full batch "
        f"{_gigabytes(found.cache_bytes)}{free}."
    )
    if found.fits is False:
        print("The cache does not fit: set a smaller augment.batch_size (results stay the same).")


def _show_work(work: PlannedWork, settings: RunConfig) -> None:
    print(
        f"Documents that may get a weak query: {work.documents_to_augment:,} of "
        f"{work.documents:,} (split.augment_from: {settings.split.augment_from})."
    )
    if work.all_train_pairs:
        bound = settings.tune.pairs_per_query
        why = "" if bound is None else f" (tune.pairs_per_query: {bound})"
        print(
            f"Tuning: {work.train_pairs:,} of {work.all_train_pairs:,} training pairs and "
            f"{work.evaluation_pairs:,} of {work.all_evaluation_pairs:,} evaluation pairs{why}, "
            f"at most {settings.tune.epochs} times."
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
