"""``sptar fuse``: several TREC runs joined into one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from sptar.cli.options import Json

__all__ = ["fuse"]


def fuse(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN [RUN]...", help="TREC runs, .gz too.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="File of the joined run; packed when it ends on .gz.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="`rrf` joins by reciprocal ranks; `score` by scores brought to 0 … 1 for each "
            "query.",
        ),
    ] = "rrf",
    k: Annotated[int, typer.Option("--k", min=0, max=10**9, help="Constant of `rrf`.")] = 60,
    weights: Annotated[
        list[float] | None,
        typer.Option(
            "--weight", min=0.0, help="Once for each run, in their order; by default all equal."
        ),
    ] = None,
    top_k: Annotated[
        int, typer.Option("--top-k", min=1, help="Documents for each query at most.")
    ] = 1000,
    separate_ids: Annotated[
        bool,
        typer.Option(
            "--separate-ids",
            help="A document with a query's id is a document like any other; without this it is "
            "left out.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Join TREC runs of the same collection, by ranks or by scores.

    A query that a run lacks is joined from the others; how many these are is told.
    """
    from sptar.cli.output import print_json
    from sptar.errors import ConfigError
    from sptar.retrieval.fusion import reciprocal_rank_fusion, score_fusion
    from sptar.trec import read_run, write_run

    if kind not in ("rrf", "score"):
        raise ConfigError(f"--kind {kind}: choose `rrf` or `score`.")
    if len(runs) < 2:
        raise ConfigError("One run alone cannot be fused.", hint="Name two runs or more.")
    if weights and len(weights) != len(runs):
        raise ConfigError(
            f"--weight is given {len(weights)} times for {len(runs)} runs.",
            hint="Give it once for each run, in their order, or leave it out.",
        )
    if not all(map(math.isfinite, weights or [])):
        raise ConfigError("--weight is a finite number of 0 or more.")
    read = [read_run(path) for path in runs]
    if kind == "rrf":
        fused = reciprocal_rank_fusion(
            read, top_k, k=k, weights=weights or None, separate_ids=separate_ids
        )
    else:
        fused = score_fusion(read, top_k, weights=weights or None, separate_ids=separate_ids)
    write_run(out, fused, f"sptar-{kind}")
    lacking = [len(fused) - len(run) for run in read]
    if as_json:
        print_json(
            {
                "out": str(out),
                "kind": kind,
                "queries": len(fused),
                "runs": [
                    {"file": str(path), "queries": len(run), "lacking": missing}
                    for path, run, missing in zip(runs, read, lacking, strict=True)
                ],
            }
        )
        return
    for path, missing in zip(runs, lacking, strict=True):
        if missing:
            print(f"{path} lacks {missing} of {len(fused)} queries: joined from the other runs.")
    print(f"Fused {len(runs)} runs of {len(fused)} queries into {out}.")
