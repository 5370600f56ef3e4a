"""Real sweeps on a real Ray, and SIGKILL at random times for their driver, workers, raylet and head (GCS).

``python -m tests.faults.kills --kills 200 --seed 0`` ends with what was killed, or at the first broken promise.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import click

from sweeper.disk import LocalDisk
from sweeper.grid import load_grid
from sweeper.results import ResultsStore, decode, lines_of, row_files
from sweeper.spec import Status

SWEEPER = str(Path(sys.executable).with_name("sweeper"))
MARK = "SWEEPER_KILLS"  # in the environment of all that a launch starts
DEADLINE = 180.0  # seconds in which a launch must have ended once something was killed
GRID = """
question = "Does a sweep survive its parts?"
models = ["mlp"]
tasks = ["digits_shifted"]
n_train = 40
seeds = [{seeds}]
[[strategies]]
name = "lora"
rank = [1, 2, 3, 4, 5, 6, 7, 8]
[[strategies]]
name = "full"
[train]
lr = [1e-3, 1e-2]
steps = {steps}
"""


def processes(mark: str, what: str) -> list[int]:
    """Return the processes of a launch: its ``driver``, its ``worker``s at work, its ``raylet``, its ``head``."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes():
                continue
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        kind = "worker" if b"ray::ResourceTrainable" in command or b"ray::PackTrial" in command else ""
        kind = "raylet" if b"raylet/raylet" in command.split(b"\0")[0] else kind
        kind = "head" if b"gcs/gcs_server" in command.split(b"\0")[0] else kind
        if kind == what:
            found.append(int(folder.name))
    return found


def finals(store: Path) -> Counter[tuple[str, Status]]:
    """Return how many lines say of a trial that it is finished, and how."""
    found: Counter[tuple[str, Status]] = Counter()
    for file in row_files(store, LocalDisk()):
        for _, line in lines_of(file.read_bytes()):
            try:
                row = decode(line)
            except ValueError:
                continue
            if row.status.is_final:
                found[row.trial_id, row.status] += 1
    return found


def check(store: Path, before: Counter[tuple[str, Status]]) -> None:
    """See that nothing that was there has gone and that nothing is there twice."""
    now = finals(store)
    lost = [trial for trial in before if trial not in now]
    twice = [trial for trial, lines in now.items() if lines > 1]
    if lost or twice or len({trial for trial, _ in now}) != len(now):
        raise SystemExit(f"BROKEN in {store}: lost {lost}, twice {twice}")


def launch_once(folder: Path, rng: Random, killed: Counter[str]) -> bool:
    """Launch the grid and kill; return whether it came to its end."""
    mark = secrets.token_hex(8)
    command = [SWEEPER, "launch", "--grid", "grid.toml", "--pack", "3"]
    with (folder / "log").open("ab") as log:
        driver = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, MARK: mark})
    time.sleep(rng.uniform(3, 9))
    last = time.monotonic()
    early = rng.random() < 0.15  # while Ray starts; else from the first worker on
    while driver.poll() is None:
        if not early and not (early := bool(processes(mark, "worker"))):
            time.sleep(0.1)
            continue
        what = rng.choices(["worker", "driver", "raylet", "head"], [16, 1, 1, 1])[0]
        victims = [driver.pid] if what == "driver" else processes(mark, what)
        if victims:
            before = finals(folder / "results")
            try:
                os.kill(rng.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed[what] += 1
            last = time.monotonic()
            check(folder / "results", before)
        if what != "worker" and victims:
            break
        time.sleep(rng.uniform(0.2, 1.5))
        if time.monotonic() - last > DEADLINE:
            break
    try:
        code = driver.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        driver.kill()
        raise SystemExit(f"BROKEN: the launch in {folder} did not end") from None
    check(folder / "results", Counter())
    if code in (0, 3):
        trials = {trial.trial_id for trial in load_grid(str(folder / "grid.toml")).trials}
        known = {row.trial_id: row.status for row in ResultsStore(folder / "results").read().results}
        if not trials <= set(known) or (code == 0 and not all(status.is_final for status in known.values())):
            raise SystemExit(f"BROKEN: exit {code} in {folder}, and not every trial has its row")
    return code == 0


@click.command()
@click.option("--kills", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, seed: int) -> None:
    """Kill, launch again, and see that nothing is lost or run twice."""
    rng, killed, sweeps, started = Random(seed), Counter[str](), 0, time.monotonic()
    while killed.total() < kills:
        with tempfile.TemporaryDirectory(prefix="kills-") as name:
            folder = Path(name)
            seeds = ", ".join(str(10 * sweeps + k) for k in range(4))
            (folder / "grid.toml").write_text(GRID.format(seeds=seeds, steps=300))
            finished = False
            while not finished and killed.total() < kills:
                finished = launch_once(folder, rng, killed)
                click.echo(
                    f"{time.monotonic() - started:6.0f} s: {dict(killed)}, {len(finals(folder / 'results'))} done"
                )
            sweeps += finished
    text = ", ".join(f"{number} {what}s" for what, number in killed.items())
    click.echo(
        f"{killed.total()} kills ({text}), {sweeps} sweeps finished: 0 finished trials lost, run again or doubled"
    )


if __name__ == "__main__":
    main()
