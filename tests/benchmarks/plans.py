"""The command `python -m tests.benchmarks.plans`: how far `sweeper plan` is from what sweeps then take.

Each grid is planned, then really run, in a store and a cache of its own, one after the other on the same machine. Where
others are busy on it too, now more, now less, the CPU time of the workers says more than the clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from sweeper.results import ResultsStore

SWEEPER = str(Path(sys.executable).with_name("sweeper"))
GRIDS = ("smoke", "lora_ranks", "data_sizes", "weak_class", "tabular")
TARGETS = {"seconds": 0.30, "cpu_seconds": 0.30, "worker_bytes": 0.15, "memory_bytes": 0.15}


@click.command()
@click.option("--grid", "grids", multiple=True, metavar="NAME[:STRATEGY...]", help=f"[default: {', '.join(GRIDS)}]")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="A JSON-lines file to which each measurement is added.")
@click.option("--table", type=click.Path(exists=True, path_type=Path), help="Print the table of such a file.")
def main(grids: tuple[str, ...], repeats: int, output: Path | None, table: Path | None) -> None:
    """Plan grids and run them, and print what was measured over what was predicted."""
    if table is not None:
        found = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    else:
        found = []
        for _ in range(repeats):
            for grid in grids or GRIDS:
                found.append(compare(grid))
                click.echo(line_of(found[-1]), err=True)
                if output is not None:
                    with output.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(found[-1]) + "\n")
    click.echo(markdown(found))


def compare(grid: str) -> dict[str, Any]:
    """Return what was predicted of a grid and what was measured."""
    name, *strategies = grid.split(":")
    options = ["--grid", name, *(part for strategy in strategies for part in ("--strategy", strategy))]
    with tempfile.TemporaryDirectory(prefix="plans-") as folder:
        environment = {**os.environ, "SWEEPER_CACHE": f"{folder}/cache"}
        load_before, started = os.getloadavg()[0], time.monotonic()
        plan = subprocess.run(
            [SWEEPER, "plan", *options, "--results", "results", "--format", "json"],
            cwd=folder, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        planning = time.monotonic() - started
        started = time.monotonic()
        launch = subprocess.Popen(
            [SWEEPER, "launch", *options, "--results", "results"],
            cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        most, cpu = 0, {}
        while launch.poll() is None:
            most = max(most, held_by(launch.pid, cpu))
            time.sleep(0.25)
        seconds = time.monotonic() - started
        rows = ResultsStore(Path(folder) / "results").read().results
        size = sum(file.stat().st_size for file in Path(folder, "results").glob("rows-*"))
        sources = sum(file.stat().st_size for file in Path(folder, "cache").glob("source/*.safetensors"))
    return {
        "grid": grid,
        "planning": planning,
        "load": [load_before, os.getloadavg()[0]],
        "predicted": json.loads(plan.stdout),
        "measured": {
            "trials": len(rows),
            "seconds": seconds,
            "cpu_seconds": sum(cpu.values()),
            "worker_bytes": max(row.metrics.get("peak_memory_bytes", 0) for row in rows),
            "memory_bytes": most,
            "disk_bytes": size + sources,
        },
    }


def held_by(process: int, cpu: dict[int, float]) -> int:
    """Return what a process and its descendants hold, what they share counted once; note what workers have computed."""
    import psutil

    try:
        root = psutil.Process(process)
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    held = 0
    for one in tree:
        try:
            held += one.memory_full_info().pss
            if "PackTrial" in (title := " ".join(one.cmdline())) or "ResourceTrainable" in title:
                times = one.cpu_times()
                cpu[one.pid] = times.user + times.system
        except psutil.Error:
            continue
    return held


def apart(one: dict[str, Any], what: str) -> float:
    """Return measured over predicted, less 1."""
    predicted = one["predicted"][what]
    return float(one["measured"][what] / (predicted if what == "cpu_seconds" else predicted["expected"]) - 1)


def line_of(one: dict[str, Any]) -> str:
    """Return the line of one measurement in the table."""
    predicted, measured = one["predicted"], one["measured"]
    within = predicted["seconds"]["low"] <= measured["seconds"] <= predicted["seconds"]["high"]
    times = f"{predicted['seconds']['expected']:.0f} s | {measured['seconds']:.0f} s"
    return (
        f"| {one['grid']} | {measured['trials']} | {times} "
        f"| {apart(one, 'seconds'):+.0%} | {'yes' if within else 'no'} | {apart(one, 'cpu_seconds'):+.0%} "
        f"| {predicted['worker_bytes']['expected'] / 2**20:,.0f} MB | {apart(one, 'worker_bytes'):+.0%} "
        f"| {predicted['memory_bytes']['expected'] / 2**20:,.0f} MB | {apart(one, 'memory_bytes'):+.0%} "
        f"| {one['planning']:.0f} s | {one['load'][0]:.1f}, {one['load'][1]:.1f} |"
    )


def markdown(found: list[dict[str, Any]]) -> str:
    """Return the table, and how far 9 in 10 predictions were."""
    lines = [
        "| grid | trials | predicted | took | apart | in range | CPU time | worker | apart | all processes | apart "
        "| planning | load |",
        "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|---|",
        *map(line_of, found),
        "",
    ]
    for what, target in TARGETS.items():
        far = sorted(abs(apart(one, what)) for one in found)
        ninetieth = far[max(0, -(-9 * len(far) // 10) - 1)]
        lines.append(f"{what}: 9 in 10 of {len(far)} within {ninetieth:.0%} (target {target:.0%})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
