"""Real sweeps on a Ray cluster of two nodes, one of which is killed.

``python -m tests.faults.nodes --kills 20 --seed 0`` ends with what was done, or at the first broken promise.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import click

os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0")

from ray.cluster_utils import Cluster

from tests.faults.kills import DEADLINE, GRID, SWEEPER, check, finals


def sweep(folder: Path, rng: Random) -> int:
    """Run a sweep to its end, a node being killed once rows have come; return how many launches it took."""
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
def main(kills: int, seed: int) -> None:
    """Sweep and kill."""
    rng, launches = Random(seed), Counter[int]()
    for number in range(kills):
        with tempfile.TemporaryDirectory(prefix="nodes-") as name:
            folder = Path(name)
            (folder / "grid.toml").write_text(GRID.format(seeds="0, 1"))
            launches[sweep(folder, rng)] += 1
            click.echo(f"{number + 1} nodes killed, {len(finals(folder / 'results'))} trials done")
    click.echo(
        f"{kills} nodes killed: every sweep complete, 0 doubled; launches needed: {dict(sorted(launches.items()))}"
    )


if __name__ == "__main__":
    main()
