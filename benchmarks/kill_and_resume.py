"""Kill a run at random moments with SIGKILL, restart it each time, compare it with a calm run.

    python benchmarks/kill_and_resume.py configs/demo.yaml --kills 10

Prints a line for each kill and a verdict for each kind of artefact; leaves with 1 on a difference.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

COMPARED = (
    "tune-*/adapter/adapter_model.safetensors",
    "select-*/selection.json",
    "augment-*/weak_queries.jsonl",
    "rank-*/ranked.jsonl",
    "filter-*/decisions.jsonl",
    "pairs-*/pairs.jsonl",
    "train-*/model/model.safetensors",
    "*_search-*/run.trec.gz",
    "evaluate-*/scores.json",
    "compare-*/comparison.json",
)


def contents(work: Path, pattern: str) -> dict[str, bytes]:
    """Relative path → bytes of all artefacts of a kind."""
    root = work / "artefacts"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob(pattern))}


def last_message(log: Path) -> str:
    """What the run said last."""
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return said[-1][:70] if said else "(nothing said yet)"


def main() -> int:
    """Run, kill, restart, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    options = parser.parse_args()
    describe_machine()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, log = Path(folder, "calm"), Path(folder, "log")
        command = [sys.executable, "-m", "sptar", "run", options.config]
        for assignment in options.assignments:
            command += ["--set", assignment]

        begin = time.monotonic()
        with log.open("w") as stream:
            subprocess.run(
                [*command, "--work", str(calm)],
                stderr=stream,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        length = time.monotonic() - begin
        print(f"undisturbed run: {length:.1f} s")

        kills = rounds = different = 0
        while kills < options.kills:
            # A run that got through in spite of the kills is compared, and another one begins.
            finished = False
            stormy = Path(folder, f"stormy-{rounds}")
            rounds += 1
            while not finished:
                with log.open("w") as stream:
                    process = subprocess.Popen(
                        [*command, "--work", str(stormy)],
                        stdout=subprocess.DEVNULL,
                        stderr=stream,
                    )
                    if kills < options.kills:
                        try:
                            process.wait(moments.uniform(0.05, 0.95) * length)
                        except subprocess.TimeoutExpired:
                            process.send_signal(signal.SIGKILL)
                    if process.wait() == -signal.SIGKILL:
                        kills += 1
                        print(f"kill {kills}: {last_message(log)}", flush=True)
                    elif process.returncode == 0:
                        finished = True
                    else:
                        print(log.read_text())
                        return 1
            for pattern in COMPARED:
                one, other = contents(calm, pattern), contents(stormy, pattern)
                same = one == other and len(one) > 0
                different += not same
                print(f"{'same' if same else 'DIFFERENT'}: {len(one)} x {pattern}", flush=True)
        print(f"{kills} kills in {rounds} runs, {different} kinds of artefact differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
