"""The command ``sweeper export``: the store as a table, or as runs of an experiment tracker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sweeper.loggers import PROJECT, SINKS, open_sink
from sweeper.output import place_of, whole
from sweeper.printing import console, format_option, print_json, report_damage, results_option, tell
from sweeper.results import read_store


@click.command()
@click.argument("target", required=False, metavar="[FILE|DIR|URI]")
@click.option("--to", type=click.Choice([*SINKS]), help="An experiment tracker, instead of a table.")
@click.option(
    "--project",
    "--experiment",
    "project",
    metavar="NAME",
    help=f"For --to: W&B's project, MLflow's experiment. [default: {PROJECT}]",
)
@results_option
@format_option
def export(target: str | None, to: str | None, project: str | None, folder: str, form: str) -> None:
    """Write the store as one table to FILE.csv or FILE.parquet, or each trial as a run of an experiment tracker.

    \b
    sweeper export results.csv
    sweeper export --to mlflow sqlite:///mlflow.db
    sweeper export --to wandb --project reviews
    sweeper export --to tensorboard runs

    A tracker is told only what it does not have: exporting again adds what is new. Where no DIR or URI is given, the
    tracker's own default counts (MLFLOW_TRACKING_URI, WANDB_DIR, the folder runs).
    """
    if to is None:
        if project is not None:
            raise ValueError(f"--project is for --to, one of {', '.join(SINKS)}")
        if target is None:
            raise ValueError(f"name a FILE.csv or FILE.parquet, or --to one of {', '.join(SINKS)}")
        number = _to_file(Path(target), folder)
        tell(f"{number} trials in {target}")
        if form == "json":
            print_json({"file": target, "trials": number})
        return
    contents = read_store(folder)
    report_damage(contents, console(stderr=True))
    sink = open_sink(to, target, project or PROJECT)
    from sweeper.progress import followed

    added = sum(sink.add(row) for row in followed(contents.results, "trials"))
    tell(f"{added} trials added, {len(contents.results) - added} were there: {sink.where}")
    if form == "json":
        print_json({"to": to, "trials": len(contents.results), "added": added})


def _to_file(path: Path, folder: str) -> int:
    """Write a store as a table, and return how many trials it has."""
    from sweeper.results import to_frame

    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"FILE must end in .csv or .parquet, got {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: name a file")
    place_of(path)
    contents = read_store(folder)
    report_damage(contents, console(stderr=True))
    frame = to_frame(contents.results)
    if "curve" in frame:
        frame["curve"] = frame["curve"].map(json.dumps)
    with whole(path) as file:
        if path.suffix == ".csv":
            frame.map(_no_formula).to_csv(file, index=False)
        else:
            frame.to_parquet(file, index=False)
    return len(frame)


def _no_formula(value: Any) -> Any:
    """Return a cell that a spreadsheet shows and does not compute."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
