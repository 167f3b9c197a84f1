"""Who does a training job: this process alone, or several together.

The step starts them (``train.processes``), each as ``-m sptar.steps.train_worker FOLDER``; or a
person has started the whole command with torchrun, on one machine or several, and all but the first
process wait here until there is something to train.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sptar.errors import SptarError
from sptar.executors.torchrun import launch, launched_from_outside, reporting
from sptar.locks import work_along
from sptar.progress import silent
from sptar.steps.train_job import TrainingJob, read_result, write_result
from sptar.types import Progress

if TYPE_CHECKING:
    from sptar.training.loop import TrainingResult

__all__ = ["train", "with_others"]


def train(job: TrainingJob, folder: Path, progress: Progress = silent) -> TrainingResult:
    """Do a job with as many processes as its recipe wants, or as torchrun has started.

    Args:
        job: what to train.
        folder: for the job's files; all processes must see it.
        progress: of the first process.

    Raises:
        ConfigError: there are not so many devices, or a batch has not so many queries.
        SptarError: what a process raised; all have ended then.
    """
    count = job.recipe.processes
    if launched_from_outside():
        from sptar.training.distributed import broadcast

        job.write(folder)
        broadcast(lambda: str(folder.resolve()))
        return job.run(progress)
    if count == 1:
        return job.run(progress)
    from sptar.training.distributed import refuse_idle_processes, training_device

    refuse_idle_processes(count, job.recipe.batch_size)
    training_device(job.recipe.device, count)
    job.write(folder)
    progress.message(f"Starting {count} training processes.")
    size = job.recipe.micro_batch_size
    if size is not None and size * count > job.recipe.batch_size:
        progress.message(
            f"Some of them will have nothing to do: train.micro_batch_size={size} cuts a batch of "
            f"{job.recipe.batch_size} into too few pieces for {count}."
        )
    launch(__name__, [str(folder.resolve())], count, folder / "distributed_context", progress)
    return read_result(folder)


def with_others(command: Callable[[], int]) -> int:
    """Do a command in the first of the processes that torchrun has started.

    The others train with it whenever it trains, and end with it.

    Returns:
        0; another exit code of the command ends this process, and torchrun the others.
    """
    import torch

    from sptar.training.distributed import broadcast, process_group

    with process_group("cuda" if torch.cuda.is_available() else "cpu") as here:
        if here.is_first:
            code = command()
            if code:
                # The others hear of it from torchrun, which ends them.
                raise SystemExit(code)
            broadcast(lambda: None)
            return 0
        while (folder := broadcast(lambda: None)) is not None:
            try:
                TrainingJob.read(Path(folder)).run()
            except SptarError as error:
                sys.stderr.write(f"Error in process {here.rank}: {error}\n")
                raise SystemExit(2) from None
    return 0


def main() -> None:
    """Do the jobs in the folders that the command line names."""
    with reporting() as progress:
        from sptar.training.distributed import process_group, training_device

        folders = [Path(name) for name in sys.argv[1:]]
        jobs = [TrainingJob.read(folder) for folder in folders]
        for job in jobs:
            work_along(job.output.parent)
        recipe = jobs[0].recipe
        with process_group(training_device(recipe.device, recipe.processes)) as here:
            for folder, job in zip(folders, jobs, strict=True):
                result = job.run(progress)
                if here.is_first:
                    write_result(folder, result)


if __name__ == "__main__":
    main()
