"""``sptar compare``: the methods of a config, or finished runs of several seeds and collections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sptar.cli.options import WORK, Assignments, EqualPairs, Json, Work
from sptar.cli.step_verbs import StepVerb, make_steps

__all__ = ["compare"]

_STEP = StepVerb("compare", ("compare",), "Test the methods against one another.")


def compare(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="YAML file of one experiment; without it, finished runs (--runs).",
            show_default=False,
        ),
    ] = None,
    assignments: Assignments = None,
    equal_pairs: EqualPairs = False,
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--runs",
            metavar="NAME[,NAME...]",
            help="Finished runs to join, in the work folder; FOLDER:NAME names another one. May be "
            "repeated. Runs of one collection are averaged over their seeds.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="With --runs: the method that the others are tested against."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="With --runs: folder for comparison.html, .csv, .tex, .json."),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="With --runs: level of the corrected tests (0.05)."),
    ] = None,
    bootstrap_samples: Annotated[
        int | None,
        typer.Option("--bootstrap-samples", help="With --runs: for the 95 % intervals (10000)."),
    ] = None,
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed",
            help="With --runs: average over runs that differ in other settings than the seed.",
        ),
    ] = False,
    work: Work = WORK,
    as_json: Json = False,
) -> None:
    """Test the methods against one another: those of a config, or those of finished runs."""
    from sptar.errors import ConfigError

    if (config is None) == (not runs):
        what = "Neither a config nor --runs is given" if config is None else "Both are given"
        raise ConfigError(
            f"{what}: sptar compare needs one of them.",
            hint="Type: sptar compare CONFIG, or: sptar compare --runs NAME,NAME",
        )
    if config is not None:
        if mixed or any(option is not None for option in (target, out, alpha, bootstrap_samples)):
            raise ConfigError(
                "--target, --out, --alpha, --bootstrap-samples and --mixed belong to --runs.",
                hint="The config has its own: evaluate.alpha, evaluate.bootstrap_samples.",
            )
        if not config.exists() and not config.suffix:
            raise ConfigError(
                f"There is no config file {config}.",
                hint=f"A finished run is named behind --runs: sptar compare --runs {config}",
            )
        make_steps(_STEP, config, assignments, equal_pairs, work, as_json)
        return
    if assignments or equal_pairs:
        raise ConfigError("--set and --equal-pairs belong to a config, not to finished runs.")
    level = 0.05 if alpha is None else alpha
    if not 0 < level < 1:
        raise ConfigError(f"--alpha is between 0 and 1, not {level:g}.")
    samples = 10_000 if bootstrap_samples is None else bootstrap_samples
    if not 100 <= samples <= 1_000_000:
        raise ConfigError("--bootstrap-samples is a number from 100 to 1,000,000.")
    _compare_runs(runs or [], target, out, level, samples, work, as_json, mixed=mixed)


def _compare_runs(
    runs: list[str],
    target: str | None,
    out: Path | None,
    alpha: float,
    bootstrap_samples: int,
    work: Path,
    as_json: bool,
    *,
    mixed: bool,
) -> None:
    from sptar.cli.output import print_json, print_table
    from sptar.evaluation.across import join_runs
    from sptar.evaluation.verdict import family_verdict
    from sptar.report.joint import joint_json, printed_tables, write_joint
    from sptar.report.runs import parse_places, read_run

    found = [read_run(place) for place in parse_places(runs, work)]
    joint = join_runs(found, target, alpha, bootstrap_samples, mixed=mixed)
    page = None if out is None else write_joint(joint, out)
    if as_json:
        print_json(joint_json(joint))
        return
    for title, table in printed_tables(joint).items():
        print_table(title, table.columns, table.rows)
    print("+ significantly better than the target, - significantly worse")
    for item in joint.collections:
        print(
            f"{item.title}: {', '.join(item.runs)}; "
            f"seed{'s' if len(item.seeds) > 1 else ''} {', '.join(map(str, item.seeds))}"
        )
        for sentence in (*item.notes, *family_verdict(item.family)):
            print(f"  {sentence}")
    if page is not None:
        print(f"Comparison: {page}")
