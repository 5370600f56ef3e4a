"""The commands ``sweeper store``: check a store, mend it, make few files of many, take in others."""

from __future__ import annotations

import sys

import click

from sweeper import upkeep
from sweeper.command import Group
from sweeper.printing import format_option, print_json, results_option
from sweeper.results import ResultsStore


@click.group(cls=Group)
def store() -> None:
    """Keep a results store in order.

    \b
    sweeper store check
    sweeper store merge laptop/results server/results
    """


@store.command()
@results_option
@format_option
def check(folder: str, form: str) -> None:
    """Read every row and compare it with its checksum; exit code 1 where something is damaged.

    \b
    sweeper store check
    sweeper store check --results results/shipped --format json
    """
    found = upkeep.check(ResultsStore(folder))
    trials = sum(found.statuses.values())
    if form == "json":
        damage = [{"file": str(d.file), "line": d.line, "reason": d.reason} for d in found.damage]
        content = {"files": found.files, "rows": found.rows, "trials": trials, "statuses": found.statuses}
        print_json({**content, "damage": damage})
    else:
        for damaged in found.damage:
            click.echo(str(damaged))
        statuses = ", ".join(f"{number} {status}" for status, number in found.statuses.items())
        click.echo(f"{found.files} files, {found.rows} rows, {trials} trials{f': {statuses}' if trials else ''}.")
        if found.damage:
            click.echo(
                f"{len(found.damage)} damaged: `sweeper store repair` sets them aside; a launch runs them again."
            )
        else:
            click.echo("Every row is as it was written.")
    sys.exit(1 if found.damage else 0)


@store.command()
@results_option
@format_option
def repair(folder: str, form: str) -> None:
    """Set damaged files aside (NAME.damaged) and write their whole rows anew.

    \b
    sweeper store repair
    sweeper store repair --results results/from_elsewhere
    """
    aside = [f"{file}{upkeep.DAMAGED}" for file in upkeep.repair(ResultsStore(folder))]
    if form == "json":
        print_json({"set_aside": aside})
        return
    for file in aside:
        click.echo(f"set aside: {file}")
    click.echo(f"{len(aside)} files mended." if aside else "Nothing to mend.")


@store.command()
@results_option
@format_option
def compact(folder: str, form: str) -> None:
    """Write the row that counts of each trial into one file; files in use or damaged stay as they are.

    \b
    sweeper store compact
    """
    gone = upkeep.compact(ResultsStore(folder))
    if form == "json":
        print_json({"files_made_one": gone})
        return
    click.echo(f"{gone} files are one now." if gone else "Nothing to do: fewer than two whole files without a writer.")


@store.command()
@click.argument("sources", nargs=-1, required=True, metavar="DIR...")
@results_option
@format_option
def merge(sources: tuple[str, ...], folder: str, form: str) -> None:
    """Take the rows of other stores into this one; of a trial that both have the newer counts, a final one first.

    \b
    sweeper store merge laptop/results server/results --results results
    """
    new = upkeep.merge(ResultsStore(folder, create=True), [ResultsStore(source) for source in sources])
    if form == "json":
        print_json({"new_rows": new})
        return
    click.echo(f"{new} rows are new in {folder}.")
