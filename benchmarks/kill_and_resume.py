"""Kill runs at random moments, restart them each time, compare the end with a calm run.

    python benchmarks/kill_and_resume.py configs/demo.yaml --kills 10
    python benchmarks/kill_and_resume.py benchmarks/kill_and_resume.yaml --kinds ray late --kills 16

Kinds of runs: ``plain`` in one process, ``workers`` with ``--workers 2``, ``torchrun`` with two
training processes, ``ray`` with a cluster of two actors, ``hosted`` with weak queries from a server
on loopback, and ``late``: a plain run that is killed only while ``encode`` works, between the last
step and the end of the page, and around them. The process that a person sees is killed; what it
started is left alone and looked for 5 s later. Every second time the command is repeated at once.

Leaves with 1 if a byte differs (times aside), a process is left over, or a run cannot go on.
Linux only: processes are found by a mark in their environment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

MARK = "SPTAR_KILL_TEST"
WATCHED = 5.0
"""Seconds that processes have to end after their parent was killed."""
KINDS = ("plain", "workers", "torchrun", "ray", "hosted", "late")
STEP = re.compile(r"\[(\d+)/(\d+)\] (\w+)")


@dataclass
class Outcome:
    """What the kills of one kind of run did."""

    kind: str
    calm_seconds: float
    kills: int = 0
    runs: int = 0
    steps: dict[str, int] = field(default_factory=dict)
    """Kills by the step that was being made."""
    files: int = 0
    """Files compared, all runs together."""
    differences: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.differences or self.left_over or self.stuck)


class Command:
    """A run that goes on in a session of its own, and what it says."""

    def __init__(self, line: list[str], log: Path) -> None:
        self.mark = os.urandom(8).hex()
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                line,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                env={**os.environ, MARK: self.mark},
                start_new_session=True,
            )

    def said(self) -> str:
        """All that was said so far."""
        return self.log.read_text(errors="replace")

    def step(self) -> str:
        """The step that it is at; ``start`` before the first."""
        steps = STEP.findall(self.said())
        return steps[-1][2] if steps else "start"

    def at_last_step(self) -> bool:
        """Whether the last step has begun."""
        steps = STEP.findall(self.said())
        return bool(steps) and steps[-1][0] == steps[-1][1]

    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None


def marked(mark: str) -> list[tuple[int, str]]:
    """Number and command line of all living processes with a mark in their environment."""
    found = []
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append((int(folder.name), line[:150]))
        except OSError:
            continue
    return found


def look_for_left_overs(mark: str, outcome: Outcome) -> None:
    """Wait until the processes of a killed run are gone, or note them and end them."""
    deadline = time.monotonic() + WATCHED
    while left := marked(mark):
        if time.monotonic() > deadline:
            outcome.left_over += [line for _, line in left]
            for pid, _ in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            return
        time.sleep(0.05)


def contents(work: Path) -> dict[str, str]:
    """File → hash of all finished artefacts; the seconds in histories and manifests left out."""
    found = {}
    for path in sorted((work / "artefacts").rglob("*")):
        name = path.relative_to(work / "artefacts").as_posix()
        if not path.is_file() or path.name == "manifest.json":
            continue
        content = path.read_bytes()
        if path.name == "history.json":
            rows = [{**row, "seconds": 0} for row in json.loads(content)]
            content = json.dumps(rows).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def check_end(command: list[str], work: Path, calm: dict[str, str], outcome: Outcome) -> None:
    """Compare a run that got through with a calm one."""
    found = contents(work)
    outcome.files += len(found)
    for name in sorted(calm.keys() | found.keys()):
        if calm.get(name) != found.get(name):
            outcome.differences.append(name)
    line = [*command[:3], "verify", "--work", str(work)]
    verified = subprocess.run(line, capture_output=True, text=True)
    if verified.returncode:
        outcome.differences.append("verify: " + verified.stdout + verified.stderr)
    pages = list((work / "runs").glob("*/report.html"))
    if not pages or any("</html>" not in page.read_text() for page in pages):
        outcome.differences.append("the page is not whole")


def wait_for_moment(
    run: Command, kind: str, length: dict[str, float], chance: random.Random
) -> None:
    """Wait until it is time to kill, or the run has ended."""
    if kind != "late":
        rest = chance.uniform(0.02, 0.98) * length["all"]
    else:
        encode = chance.random() < 0.5
        while not run.ended():
            if (run.step() == "encode") if encode else run.at_last_step():
                break
            time.sleep(0.002)
        rest = chance.uniform(0, 1.05) * length["encode" if encode else "page"]
    try:
        run.process.wait(rest)
    except subprocess.TimeoutExpired:
        return


def calm_run(line: list[str], log: Path) -> dict[str, float]:
    """Seconds of a run that nobody disturbs: of all, of ``encode``, from the last step on."""
    began = time.monotonic()
    run = Command(line, log)
    at: list[tuple[float, str]] = []
    while not run.ended():
        step = run.step()
        if not at or at[-1][1] != step:
            at.append((time.monotonic(), step))
        time.sleep(0.005)
    end = time.monotonic()
    if run.process.returncode:
        raise SystemExit(run.said())
    times = [*(moment for moment, _ in at), end]
    encode = [times[n + 1] - times[n] for n, (_, step) in enumerate(at) if step == "encode"]
    return {"all": end - began, "encode": max(encode), "page": end - times[-2]}


def storm(
    command: list[str], kind: str, kills: int, how: int, chance: random.Random, folder: Path
) -> Outcome:
    """Kill runs of one kind so many times."""
    log = folder / f"{kind}.log"
    length = calm_run([*command, "--work", str(folder / f"{kind}-calm")], log)
    calm = contents(folder / f"{kind}-calm")
    outcome = Outcome(kind, round(length["all"], 2))
    print(f"{kind}: undisturbed {length['all']:.1f} s, {len(calm)} files", flush=True)
    watchers: list[threading.Thread] = []
    while outcome.kills < kills:
        # A run that got through in spite of the kills is compared, and another one begins.
        work = folder / f"{kind}-{outcome.runs}"
        outcome.runs += 1
        # What was tried out once, the layout of products for instance, a work folder keeps: on a
        # busy machine another folder may decide otherwise, and its last bits differ.
        if (kept := folder / f"{kind}-calm" / "trials").is_dir():
            shutil.copytree(kept, work / "trials")
        while True:
            run = Command([*command, "--work", str(work)], log)
            if outcome.kills < kills:
                wait_for_moment(run, kind, length, chance)
            else:
                run.process.wait()
            if not run.ended():
                run.process.send_signal(how)
                run.process.wait()
            if run.process.returncode in (-how, 128 + how):
                outcome.kills += 1
                step = run.step()
                outcome.steps[step] = outcome.steps.get(step, 0) + 1
                print(f"{kind} {outcome.kills}: killed at {step}", flush=True)
                watcher = threading.Thread(target=look_for_left_overs, args=(run.mark, outcome))
                watcher.start()
                watchers.append(watcher)
                if chance.random() < 0.5:  # the others are repeated at once
                    watcher.join()
            elif run.process.returncode == 0:
                look_for_left_overs(run.mark, outcome)
                check_end(command, work, calm, outcome)
                break
            else:
                outcome.stuck.append(run.said()[-500:])
                print(f"{kind}: cannot go on: {run.said()[-500:]}", flush=True)
                break
    for watcher in watchers:
        watcher.join()
    return outcome


def line_of(kind: str, options: argparse.Namespace, stack: ExitStack) -> list[str]:
    """The command of a kind of run."""
    line = [sys.executable, "-m", "sptar", "run", options.config]
    for assignment in options.assignments:
        line += ["--set", assignment]
    if kind == "workers":
        line += ["--workers", "2"]
    elif kind == "torchrun":
        line += ["--set", "train.processes=2"]
    elif kind == "ray":
        line += ["--executor", "ray", "--workers", "2"]
    elif kind == "hosted":
        from completions_server import completions_server

        url, _ = stack.enter_context(completions_server(answer))
        line += ["--set", "llm.backend=openai", "--set", f"llm.base_url={url}"]
        line += ["--set", "methods=[bm25, inpars]", "--set", "llm.name=some-model"]
    return line


def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the server on loopback writes: words of the prompt, the same for the same prompt."""
    time.sleep(0.02)
    words = [word for word in body["prompt"].split() if word.isalpha()][-40:]
    chosen = random.Random(body["prompt"]).sample(words, min(5, len(words)))
    return {"choices": [{"text": " ".join(chosen), "finish_reason": "stop"}]}


def main() -> int:
    """Run, kill, restart, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--kills", type=int, default=10, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["plain"])
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    parser.add_argument("--output", type=Path, help="JSON file for the outcome")
    options = parser.parse_args()
    how = int(signal.SIGKILL if options.signal == "KILL" else signal.SIGTERM)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            chance = random.Random(f"{options.seed} {kind}")
            with ExitStack() as stack:
                command = line_of(kind, options, stack)
                outcomes.append(storm(command, kind, options.kills, how, chance, Path(folder)))
    print("| run | kills | runs | files compared | differences | left over | cannot go on |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for found in outcomes:
        counts = [found.kills, found.runs, found.files]
        faults = [len(found.differences), len(found.left_over), len(found.stuck)]
        print("| " + " | ".join(map(str, [found.kind, *counts, *faults])) + " |")
    for found in outcomes:
        for fault in (*found.differences, *found.left_over, *found.stuck):
            print(f"{found.kind}: {fault}")
    if options.output is not None:
        from machine import describe_machine

        settings = {"signal": options.signal, "seed": options.seed, "set": options.assignments}
        value = {
            "machine": describe_machine(),
            "settings": {"config": options.config, **settings},
            "outcomes": [asdict(found) for found in outcomes],
        }
        options.output.write_text(json.dumps(value, indent=2) + "\n")
    return 0 if all(found.good for found in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
