"""What tests let several processes do: ``python -m process_checks CHECK FOLDER``."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sptar.blocks import Block
from sptar.errors import DataError, ModelError
from sptar.executors.lifeline import end_offspring_with_me
from sptar.executors.processes import ProcessExecutor
from sptar.executors.torchrun import launch, reporting
from sptar.progress import SilentProgress

WORDS = ["bees", "a sourdough starter", "frost", "the ferry", "glass of sand", "", "cork oaks"]
SIZES = [None, 2, 10]
"""Of pieces: a piece for each process, more pieces than processes, a single piece."""


def letters_model(dropout):
    """A text to the mean of its letters' vectors, and its letters' vectors with a mask."""
    import torch

    class Letters(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(128, 6)
            self.layer = torch.nn.Linear(6, 4)
            self.dropout = torch.nn.Dropout(dropout)

        def forward(self, texts):
            width = max(len(text) for text in texts) + 1
            ids = [[ord(letter) for letter in f"^{text}".ljust(width)] for text in texts]
            mask = torch.tensor([[place <= len(text) for place in range(width)] for text in texts])
            tokens = torch.tanh(self.layer(self.dropout(self.table(torch.tensor(ids)))))
            tokens = tokens * mask[..., None]
            return tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True), tokens, mask

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Letters()


def loss_and_gradients(size, dropout):
    """Of a loss in which every text meets every other, as lists."""
    import torch

    from sptar.training.distributed import all_reduce_gradients
    from sptar.training.losses.cached import embed_batch

    model = letters_model(dropout)
    torch.manual_seed(5)
    total = torch.zeros(())
    for texts in (WORDS, WORDS[::-1]):  # twice, as queries and documents
        vectors, tokens, mask = embed_batch(
            lambda rows, texts=texts: model([texts[row] for row in rows]),
            [len(text) for text in texts],
            size,
            torch.device("cpu"),
        )
        assert mask.dtype == torch.bool
        assert mask.sum(dim=1).tolist() == [len(text) + 1 for text in texts]
        scores = 3.0 * vectors @ vectors.T
        total = total + torch.nn.functional.cross_entropy(scores, torch.arange(7).flip(0))
        total = total + torch.einsum("asd,btd->", tokens[:3], tokens[3:])
    total.backward()
    all_reduce_gradients(list(model.parameters()))
    return total.item(), [parameter.grad.tolist() for parameter in model.parameters()]


def gathered(rank):
    """Rows of different number and length, and the gradient that comes back."""
    import torch

    from sptar.training.distributed import all_gather_rows

    rows = torch.full((rank, 1 + rank), float(rank), requires_grad=True)
    found = all_gather_rows(rows, [0, 1, 2])
    (found * torch.arange(9.0).reshape(3, 3)).sum().backward()
    return {"rows": found.tolist(), "gradient": rows.grad.tolist()}


def added(rank):
    """Gradients that all, one, or none of the processes have."""
    import torch

    from sptar.training.distributed import all_reduce_gradients

    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([1.0, rank])
    if rank == 2:
        parameters[1].grad = torch.tensor([5.0, 6.0])
    all_reduce_gradients(parameters)
    return [None if found.grad is None else found.grad.tolist() for found in parameters]


def together(folder):
    from sptar.training import distributed as parallel

    with reporting() as progress, parallel.process_group("cpu") as here:
        assert here.size == 3
        parallel._BUCKET = 10  # so that gradients travel in several
        progress.start("Checks", 2, "checks")
        found = {
            "told": parallel.broadcast(lambda: {"é": [0.1, None, here.rank]}),
            "gathered": gathered(here.rank),
            "added": added(here.rank),
            "losses": [
                [*loss_and_gradients(size, dropout)] for dropout in (0.0, 0.5) for size in SIZES
            ],
        }
        progress.advance()
        parallel.require_identical("equal", "what is equal")
        try:
            parallel.require_identical(f"own {here.rank // 2}", "a number")
        except ModelError as error:
            found["disagreed"] = error.message
        (folder / f"found-{here.rank}.json").write_text(json.dumps(found))
        progress.finish()
        parallel.broadcast(lambda: None)
        if here.rank == 1:
            raise DataError("two rows are alike.", path="some.jsonl", line=3, hint="Remove one.")
        # The first works on, the last waits for it.
        parallel.broadcast(lambda: time.sleep(600))


def wait(folder):
    with reporting() as progress:
        (folder / "pid-launcher").write_text(str(os.getppid()))
        (folder / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
        while len(list(folder.glob("pid-[0-9]"))) < int(os.environ["WORLD_SIZE"]):
            time.sleep(0.02)
        progress.message("All are here.")
        time.sleep(600)


@dataclass(frozen=True)
class Endless:
    """A factory of workers that say that they are there and then work on for ever."""

    folder: Path

    def __call__(self):
        def work(block):
            (self.folder / f"pid-{block.number}").write_text(str(os.getpid()))
            time.sleep(600)

        return work


def share(folder):
    """A process whose workers are at work."""
    blocks = [Block(number, number, number + 1) for number in range(2)]
    ProcessExecutor(2, 1).share(blocks, Endless(folder), lambda block: None)


def start_a_service(folder):
    """A process that starts another one, which starts one in a session of its own."""
    end_offspring_with_me()
    code = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
    inner = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    line = [sys.executable, "-c", code, sys.executable, "-c", inner, str(folder / "pid-0")]
    subprocess.run(line, check=True)
    time.sleep(600)


def launch_wait(folder):
    """A process that has started torchrun."""
    launch("process_checks", ["wait", str(folder)], 2, folder / "folder")


def crash(folder):
    with reporting():
        if os.environ["RANK"] == "0":
            raise RuntimeError("the roof is leaking")
        time.sleep(600)


def end_badly(folder):
    """The work is done, and something breaks when the interpreter ends."""
    with reporting() as progress:
        atexit.register(os.abort)
        progress.message("Done.")


class KilledAfterOneEpoch(SilentProgress):
    def message(self, text):
        if text.startswith("Epoch 1"):
            raise KeyboardInterrupt


def train_jobs(*folders):
    """What torchrun starts for the jobs in these folders, with steps that can be compared."""
    import torch

    from sptar.steps import train_worker
    from steady import steady_adam

    torch.optim.AdamW = steady_adam()
    sys.argv[1:] = map(str, folders)
    train_worker.main()


def train_from_outside(folder):
    """As when a person types torchrun: the first process does the command."""
    import torch

    from sptar.steps.train_job import TrainingJob
    from sptar.steps.train_worker import train, with_others
    from steady import steady_adam

    torch.optim.AdamW = steady_adam()

    def command():
        train(TrainingJob.read(folder), folder / "shared", KilledAfterOneEpoch())
        return 0

    with_others(command)


CHECKS = (
    together,
    wait,
    crash,
    end_badly,
    train_jobs,
    train_from_outside,
    share,
    start_a_service,
    launch_wait,
)

if __name__ == "__main__":
    checks = {check.__name__: check for check in CHECKS}
    checks[sys.argv[1]](*map(Path, sys.argv[2:]))
