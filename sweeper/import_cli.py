"""The command ``sweeper import``: figures that others measured, beside our own."""

from __future__ import annotations

from pathlib import Path

import click

from sweeper import cited
from sweeper.printing import format_option, print_json, results_option, tell
from sweeper.results import ResultsStore


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@results_option
@click.option("--source", help="Where the figures are from. [default: the name of the file]")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="OURS=THEIRS",
    help="What a column of ours is called there (score=metrics.acc, hparams.lr=params.lr); task==NAME for all rows.",
)
@format_option
def import_(files: tuple[str, ...], folder: str, source: str | None, columns: tuple[str, ...], form: str) -> None:
    """Take figures of others into the store's folder `cited`, where `advisor evaluate` finds them.

    FILE is a long table (CSV), a result of peft's method_comparison or a folder of them, an export of MLflow or W&B
    (CSV), or a folder of Ray Tune's results. What is imported again replaces what it was.

    \b
    sweeper import published.csv
    sweeper import peft/method_comparison/MetaMathQA/results --source peft
    sweeper import runs.csv --column task==imdb --column strategy=params.method --column score=metrics.accuracy
    """
    pairs = [own.partition("=") for own in columns]
    for name, sign, theirs in pairs:
        if not sign or not theirs:
            raise click.UsageError(f"--column {name!r} must be OURS=THEIRS, or OURS==TEXT")
    named = {name: theirs for name, _, theirs in pairs}
    read = [(Path(file), cited.read(Path(file), source, named)) for file in files]
    store = ResultsStore(folder, create=True)
    if store.is_remote:
        raise click.UsageError(f"--results {folder} is object storage: import into a folder")
    store.mark()
    done = []
    for path, rows in read:
        file = cited.write(rows, store.path, path.stem if path.suffix else path.name)
        strategies = len({row["strategy"] for row in rows})
        tasks = len({row["task"] for row in rows})
        done.append({"file": str(file), "rows": len(rows), "strategies": strategies, "tasks": tasks})
        tell(f"{len(rows)} rows, {strategies} strategies, {tasks} tasks -> {file}")
    if form == "json":
        print_json(done)
