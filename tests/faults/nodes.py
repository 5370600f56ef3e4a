"""Real sweeps on a Ray cluster of two nodes, one of which is killed, or unreachable for a while.

``python -m tests.faults.nodes --kills 20 --seed 0``, also with ``--partition``, ends with what was done, or at the
first broken promise.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import click

os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0")

from ray.cluster_utils import Cluster

from tests.faults.kills import DEADLINE, GRID, SWEEPER, check, finals

SILENCE = 60.0  # seconds: longer than Ray waits before it gives a node up


def below(process: int) -> list[int]:
    """Return a process and all that it started."""
    found = [process]
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == process:
                found += below(int(folder.name))
    return found


def silence(node: Any, rng: Random) -> None:
    """Stop all processes of a node for a time; to the others it is as if they were out of reach."""
    (raylet,) = node.all_processes["raylet"]
    stopped = below(raylet.process.pid)
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    time.sleep(rng.uniform(1, SILENCE))
    for process in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def sweep(folder: Path, rng: Random, partition: bool) -> int:
    """Run a sweep to its end, a node being lost once rows have come; return how many launches it took."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    command = [SWEEPER, "launch", "--grid", "grid.toml", "--pack", "3", "--address", cluster.address]
    try:
        for launch in range(1, 10):
            with (folder / "log").open("ab") as log:
                driver = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            if launch == 1:
                since = time.monotonic()
                while driver.poll() is None and not finals(folder / "results") and time.monotonic() - since < DEADLINE:
                    time.sleep(0.1)
                time.sleep(rng.uniform(0, 3))
                before = finals(folder / "results")
                if partition:
                    silence(node, rng)
                else:
                    cluster.remove_node(node, allow_graceful=False)
                check(folder / "results", before)
            code = driver.wait(2 * DEADLINE)
            check(folder / "results", Counter())
            if code == 0:
                return launch
        raise SystemExit(f"BROKEN: not done after nine launches, {folder}")
    finally:
        cluster.shutdown()


@click.command()
@click.option("--kills", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--partition", is_flag=True, help="Stop the node's processes for a time instead.")
def main(kills: int, seed: int, partition: bool) -> None:
    """Sweep and kill."""
    what = "nodes out of reach for a time" if partition else "nodes killed"
    rng, launches = Random(seed), Counter[int]()
    for number in range(kills):
        with tempfile.TemporaryDirectory(prefix="nodes-") as name:
            folder = Path(name)
            (folder / "grid.toml").write_text(GRID.format(seeds="0, 1", steps=3000))
            launches[sweep(folder, rng, partition)] += 1
            click.echo(f"{number + 1} {what}, {len(finals(folder / 'results'))} trials done")
    click.echo(f"{kills} {what}: every sweep complete, 0 doubled; launches needed: {dict(sorted(launches.items()))}")


if __name__ == "__main__":
    main()
