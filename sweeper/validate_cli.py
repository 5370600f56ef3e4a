"""The command ``sweeper validate``: what is wrong with grids, rows and stores, before anything runs."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from sweeper.completion import names
from sweeper.printing import format_option, print_json


@click.command()
@click.argument("things", nargs=-1, required=True, metavar="GRID|FILE|DIR...", shell_complete=names("grid"))
@click.option("--data", metavar="DATA", help="Try the grids on these rows of your own.")
@format_option
def validate(things: tuple[str, ...], data: str | None, form: str) -> None:
    """Say of grids, data and stores that they are fine, or each problem in a line; exit code 2 where there is one.

    Nothing is trained. A grid's trials are built as a launch would, and each of its parts is looked at.

    \b
    sweeper validate my_grid.toml
    sweeper validate my_grid.toml --data reviews.csv
    sweeper validate reviews.csv results lora_ranks
    """
    from sweeper.validate import validate as look

    found = [look(name, data) for name in things]
    if form == "json":
        print_json([{**asdict(verdict), "ok": not verdict.problems} for verdict in found])
    else:
        for verdict in found:
            for problem in verdict.problems:
                click.echo(f"{verdict.name}: {problem}")
            if not verdict.problems:
                click.echo(f"{verdict.name}: ok, {verdict.kind}: {'; '.join(verdict.facts)}")
    sys.exit(2 if any(verdict.problems for verdict in found) else 0)
