"""The command `python -m tests.benchmarks`: run the benchmarks and print their table."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent
WORKLOAD_NAMES = ("no_op", "heads", "heads_minilm", "lora_grid", "encoder", "strategies")
SCALING_NAMES = ("start", "rows", "writers", "overhead", "trials", "workers")


def environment(cache: str) -> None:
    """Let this process and the workers know the trial that does nothing, as a package would be known, and the cache."""
    paths = [str(HERE / "plugin"), str(HERE.parent.parent)]
    sys.path += [path for path in paths if path not in sys.path]
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    os.environ["SWEEPER_CACHE"] = cache


@click.command()
@click.option("--quick", is_flag=True, help="The smallest sizes: does it run?")
@click.option(
    "--only", "only", multiple=True, type=click.Choice(WORKLOAD_NAMES + SCALING_NAMES), help="Of these alone."
)
@click.option("--against", multiple=True, help="Only these contenders.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="A JSON file for what was measured.")
@click.option("--profile", "profiling", is_flag=True, help="Show where our own time goes, and compare nothing.")
@click.option(
    "--table", type=click.Path(exists=True, path_type=Path), help="Print the table of a JSON file, and run nothing."
)
def main(
    quick: bool,
    only: tuple[str, ...],
    against: tuple[str, ...],
    repeats: int,
    output: Path | None,
    profiling: bool,
    table: Path | None,
) -> None:
    """Compare the sweeper with other ways to run the same trials, in turn, and print a Markdown table of ratios."""
    from tests.benchmarks.table import markdown

    if table is not None:
        click.echo(markdown(json.loads(table.read_text(encoding="utf-8"))), nl=False)
        return
    chosen = only or WORKLOAD_NAMES + SCALING_NAMES
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as cache:
        environment(cache)
        if profiling:
            _profile([name for name in chosen if name in WORKLOAD_NAMES], quick)
            return
        report = _measure(chosen, against, repeats, quick)
    if output is not None:
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    click.echo(markdown(report), nl=False)


def _profile(names: list[str], quick: bool) -> None:
    from tests.benchmarks.profiles import profile
    from tests.benchmarks.workloads import WORKLOADS

    for name in names:
        click.echo(f"**{name}**: {profile(WORKLOADS[name].specs(quick))}\n")


def _measure(chosen: tuple[str, ...], against: tuple[str, ...], repeats: int, quick: bool) -> dict[str, Any]:
    # Late, since what the tables of strategies and tasks hold is decided when they are imported.
    from sweeper import provenance
    from tests.benchmarks.contenders import cores, local_ray
    from tests.benchmarks.measure import measure
    from tests.benchmarks.scaling import SCALING, STARTS_ITS_OWN_RAY
    from tests.benchmarks.workloads import WORKLOADS

    report: dict[str, Any] = {**provenance.environment(), **provenance.code(), "date": provenance.now()}
    report |= {"cores": cores(), "repeats": repeats, "quick": quick, "workloads": {}, "scaling": {}}
    for name in STARTS_ITS_OWN_RAY:
        if name in chosen:
            _say(name)
            report["scaling"][name] = SCALING[name](repeats, quick)
    with local_ray():
        for name in chosen:
            if name in WORKLOADS:
                _say(name)
                report["workloads"][name] = measure(WORKLOADS[name], repeats, quick, against, _say)
            elif name not in STARTS_ITS_OWN_RAY:
                _say(name)
                report["scaling"][name] = SCALING[name](repeats, quick)
    return report


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
