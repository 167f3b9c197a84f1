"""Blocks of a step, done here or in other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sptar.blocks import Block
from sptar.executors.local import Worker
from sptar.locks import work_along
from sptar.steps.base import Context, Output
from sptar.workspace import Artefact, Workspace

__all__ = ["BlockStep", "run_blocks"]


class BlockStep(Protocol):
    """A step whose work is cut into blocks."""

    def worker(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Worker:
        """Load what the blocks need and return what does one block and writes it."""
        ...


@dataclass(frozen=True)
class _Factory:
    """Makes the step's worker in another process, from what is picklable alone."""

    step: BlockStep
    folder: Path
    inputs: Mapping[str, Artefact]
    root: Path

    def __call__(self) -> Worker:
        work_along(self.folder)
        return self.step.worker(Output(self.folder), self.inputs, Context(Workspace(self.root)))


def run_blocks(
    step: BlockStep,
    blocks: Sequence[Block],
    output: Output,
    inputs: Mapping[str, Artefact],
    context: Context,
    description: str,
    unit: str,
) -> None:
    """Have the context's executor do these blocks, with a bar over their items."""
    if not blocks:
        return
    executor = context.executor
    total = sum(block.stop - block.start for block in blocks)
    if not executor.remote:
        # The worker is made before the bar opens: loading a model has messages of its own.
        work = step.worker(output, inputs, context)
        context.progress.start(description, total, unit)
        executor.share(blocks, lambda: work, lambda block: None)
    else:
        factory = _Factory(step, output.folder, dict(inputs), context.workspace.root)
        context.progress.start(description, total, unit)
        executor.share(
            blocks, factory, lambda block: context.progress.advance(block.stop - block.start)
        )
    context.progress.finish()
