"""Three processes with a share of the batch each do what one does with all of it."""

from __future__ import annotations

import json
import math

import pytest
import torch

from process_checks import SIZES, loss_and_gradients
from sptar.errors import ConfigError, DataError
from sptar.executors.torchrun import launch
from sptar.progress import RecordedProgress
from sptar.training import distributed as parallel


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What each process found, the error with which they ended, and their progress."""
    folder, progress = tmp_path_factory.mktemp("together"), RecordedProgress()
    with pytest.raises(DataError) as raised:
        launch("process_checks", ["together", str(folder)], 3, folder / "launch", progress)
    found = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(3)]
    return found, raised.value, progress


def test_what_the_first_says_reaches_all(launched):
    found, _, _ = launched
    assert [one["told"] for one in found] == [{"é": [0.1, None, 0]}] * 3


def test_rows_are_gathered_and_each_gets_its_own_gradient(launched):
    found, _, _ = launched
    for rank, one in enumerate(found):
        assert one["gathered"]["rows"] == [[1, 1, 0], [2, 2, 2], [2, 2, 2]]
        assert one["gathered"]["gradient"] == [[], [[0, 1]], [[3, 4, 5], [6, 7, 8]]][rank]


def test_gradients_are_added_and_missing_ones_stay_missing(launched):
    found, _, _ = launched
    assert [one["added"] for one in found] == [[[3, 3], [5, 6], None]] * 3


@pytest.mark.parametrize("number", range(2 * len(SIZES)))
def test_loss_and_gradient_are_those_of_one_process(launched, number):
    """With dropout too, when the batch is cut into pieces of a given size."""
    found, _, _ = launched
    size, dropout = SIZES[number % len(SIZES)], 0.5 * (number // len(SIZES))
    loss, gradients = loss_and_gradients(size, dropout)
    assert all(one["losses"][number] == found[0]["losses"][number] for one in found)
    ours, theirs = found[0]["losses"][number]
    if size is None and dropout:
        assert abs(ours - loss) > 1e-4  # other random numbers
        return
    assert math.isclose(ours, loss, rel_tol=1e-5)
    for one, other in zip(theirs, gradients, strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-4, atol=1e-6)


def test_each_piece_draws_numbers_of_its_own():
    losses = {size: loss_and_gradients(size, 0.5)[0] for size in (2, 10)}
    assert losses[2] != losses[10]
    assert loss_and_gradients(2, 0.5)[0] == losses[2]


def test_processes_that_hold_different_things_say_so(launched):
    found, _, _ = launched
    sentence = "The 3 training processes do not agree on a number."
    assert [one["disagreed"] for one in found] == [sentence] * 3


def test_an_error_in_one_process_is_raised_where_all_were_launched(launched):
    _, error, _ = launched
    assert error.message == "some.jsonl:3: two rows are alike."
    assert str(error) == "some.jsonl:3: two rows are alike. Remove one."


def test_progress_is_that_of_the_first(launched):
    _, _, progress = launched
    assert progress.started == [("Checks", 2, "checks")]
    assert (progress.advanced, progress.finished) == (1, 1)


def test_alone_nothing_is_asked_of_anybody():
    assert parallel.distributed_context() == parallel.DistributedContext(0, 1)
    rows = torch.ones(2, 3)
    assert parallel.all_gather_rows(rows, [2]) is rows
    assert parallel.broadcast(lambda: 1.5) == 1.5
    parallel.require_identical("x", "nothing")
    parallel.all_reduce_gradients([])


def test_each_process_gets_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert parallel.training_device("auto", 4) == "cpu"
    with pytest.raises(ConfigError, match="there are 0"):
        parallel.training_device("cuda", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parallel.training_device("cpu", 4) == "cpu"
    assert parallel.training_device("auto", 2) == "cuda"
    with pytest.raises(ConfigError, match=r"there are 2\. .*processes=2"):
        parallel.training_device("auto", 3)
    for name in ("cuda:1", "mps"):
        with pytest.raises(ConfigError, match=f"train.device={name}"):
            parallel.training_device(name, 2)
