"""Options that many verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sptar.config import RunConfig
    from sptar.executors.local import Executor

__all__ = [
    "Assignments",
    "Config",
    "EqualPairs",
    "ExecutorName",
    "Json",
    "RayAddress",
    "Retrievers",
    "Work",
    "Workers",
    "executor_of",
    "load",
]

Config = Annotated[Path, typer.Argument(help="YAML file of the experiment.", show_default=False)]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, e.g. --set tune.epochs=20. May be repeated.",
    ),
]
Work = Annotated[
    Path, typer.Option("--work", help="Folder of artefacts and results, made if missing.")
]
EqualPairs = Annotated[
    bool,
    typer.Option(
        "--equal-pairs",
        help="Give every augmenting method the same number of weak pairs (equal_pairs: true).",
    ),
]
Retrievers = Annotated[
    list[str] | None,
    typer.Option(
        "--retriever",
        metavar="NAME",
        help="Only this retriever (or fusion A+B) in place of the config's. May be repeated.",
    ),
]
ExecutorName = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="local|processes|ray",
        help="Who works through long steps: this process, several processes, or a Ray cluster. "
        "The results are the same.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Worker processes; alone it means `--executor processes`. Each loads a model of its "
        "own.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="Ray cluster to use (`auto` for a running one); by default one is started here.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]

WORK = Path("sptar-work")


def load(
    config: Path,
    assignments: list[str] | None,
    *,
    equal_pairs: bool = False,
    retrievers: list[str] | None = None,
) -> RunConfig:
    """The config file with its assignments."""
    import json

    from sptar.config import load_config

    extra = ["equal_pairs=true"] if equal_pairs else []
    if retrievers:
        extra.append(f"retrievers={json.dumps(retrievers)}")
    return load_config(config, [*(assignments or []), *extra])


def executor_of(name: str | None, workers: int | None, address: str | None) -> Executor:
    """The executor that the options ask for.

    Raises:
        ConfigError: there is no such executor, or options contradict each other.
    """
    from sptar.errors import ConfigError

    if name is None:
        name = "ray" if address is not None else "local" if workers is None else "processes"
    if address is not None and name != "ray":
        raise ConfigError(f"--ray-address and --executor {name} contradict each other.")
    if name == "local":
        if workers is not None:
            raise ConfigError("--workers and --executor local contradict each other.")
        from sptar.executors.local import LocalExecutor

        return LocalExecutor()
    if name == "processes":
        import os

        from sptar.executors.processes import ProcessExecutor

        return ProcessExecutor(workers or os.cpu_count() or 1)
    if name == "ray":
        from sptar.executors.ray import RayExecutor

        return RayExecutor(address, workers)
    raise ConfigError(f"There is no executor '{name}'.", hint="Known are: local, processes, ray.")
