"""``sptar verify``: is everything in a work folder as it was written?"""

from __future__ import annotations

import typer

from sptar.cli.options import WORK, Json, Work

__all__ = ["verify"]


def verify(work: Work = WORK, as_json: Json = False) -> None:
    """Read every file of every finished artefact again and compare it with its hash.

    Exit code 0: all is as it was written. 1: something has changed, is missing or cannot be told.
    2: there is no such folder, or it cannot be read.
    """
    from sptar.cli.output import TerminalProgress, print_json, print_table
    from sptar.errors import WorkspaceError
    from sptar.workspace import Workspace

    workspace = Workspace(work)
    if not workspace.root.is_dir():
        raise WorkspaceError(f"There is no work folder {work}.", hint="Name it: --work FOLDER")
    progress = TerminalProgress()
    folders = list(workspace.artefacts())
    checked = [folder for folder in folders if workspace.is_finished(folder)]
    progress.start("Verifying artefacts", len(checked), "artefacts")
    faults: dict[str, list[str]] = {}
    for folder in checked:
        found = workspace.faults(folder)
        if found:
            faults[folder.name] = found
        progress.advance()
    progress.finish()
    if as_json:
        print_json(
            {
                "artefacts": len(checked),
                "unfinished": len(folders) - len(checked),
                "faults": faults,
            }
        )
    elif faults:
        rows = [[name, fault] for name, found in faults.items() for fault in found]
        print_table("Not as it was written", ["artefact", "fault"], rows)
        print(
            f"{len(faults)} of {len(checked)} artefacts are to be made anew: remove their folders "
            f"in {work / 'artefacts'} and run again."
        )
    else:
        print(f"{len(checked)} artefacts in {work} are as they were written.")
    if faults:
        raise typer.Exit(1)
