"""Processes that belong together: they report, fail and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from alive import assert_all_end, numbers_written
from sptar.cli.entry import main
from sptar.errors import WorkspaceError
from sptar.executors.torchrun import launch, launched_from_outside
from sptar.progress import RecordedProgress


def test_an_interrupt_ends_all_processes(tmp_path):
    class Interrupted(RecordedProgress):
        def message(self, text):
            assert text == "All are here."
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch("process_checks", ["wait", str(tmp_path)], 2, tmp_path / "folder", Interrupted())
    assert_all_end([int(file.read_text()) for file in tmp_path.glob("pid-*")])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nobody_is_left_when_the_caller_ends(tmp_path, how):
    caller = subprocess.Popen([sys.executable, "-m", "process_checks", "launch_wait", tmp_path])
    try:
        pids = numbers_written(tmp_path, 3, caller)
    finally:
        caller.send_signal(how)
        caller.wait()
    assert_all_end(pids)


def test_a_process_ends_when_the_one_that_launched_it_is_gone(tmp_path):
    """However that died: its end of the pipe is closed by the system."""
    place = {"SPTAR_LAUNCH_FOLDER": str(tmp_path), "RANK": "0", "WORLD_SIZE": "1"}
    worker = subprocess.Popen(
        [sys.executable, "-m", "process_checks", "wait", str(tmp_path)],
        stdin=subprocess.PIPE,
        env={**os.environ, **place},
    )
    while not (tmp_path / "progress.jsonl").exists():
        assert worker.poll() is None
        time.sleep(0.02)
    worker.stdin.close()
    assert worker.wait(20) == 1


def test_a_crash_of_one_ends_all_and_says_what_it_was(tmp_path):
    began = time.monotonic()
    with pytest.raises(WorkspaceError) as raised:
        launch("process_checks", ["crash", str(tmp_path)], 2, tmp_path / "folder")
    assert "RuntimeError: the roof is leaking" in raised.value.message
    assert "output.log" in raised.value.hint
    assert "Traceback" in (tmp_path / "folder" / "output.log").read_text()
    assert time.monotonic() - began < 300


def test_a_process_that_has_done_its_work_is_not_lost_when_the_interpreter_ends(tmp_path):
    progress = RecordedProgress()
    launch("process_checks", ["end_badly", str(tmp_path)], 1, tmp_path / "folder", progress)
    assert progress.messages == ["Done."]


def test_a_command_that_torchrun_started_leaves_as_quickly(monkeypatch):
    left = []
    monkeypatch.setattr("sptar.executors.torchrun.launched_from_outside", lambda: True)
    monkeypatch.setattr("sptar.steps.train_worker.with_others", lambda command: 3)
    monkeypatch.setattr(os, "_exit", left.append)
    main()
    assert left == [3]


def test_who_started_this_process(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert not launched_from_outside()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert not launched_from_outside()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not launched_from_outside()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched_from_outside()
    monkeypatch.setenv("SPTAR_LAUNCH_FOLDER", "somewhere")
    assert not launched_from_outside()
