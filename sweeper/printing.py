"""What the commands share: how they print, and the options that most of them have."""

from __future__ import annotations

import json
import math
import re
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.results import Contents

results_option = click.option(
    "--results",
    "folder",
    default="results",
    show_default=True,
    metavar="DIR|URL",
    help="The results store: a folder, or s3://bucket/folder.",
)
format_option = click.option(
    "--format", "form", type=click.Choice(["human", "json"]), default="human", show_default=True, help="How to print."
)


UNITS = MappingProxyType({"s": 1, "m": 60, "h": 3600})


class Duration(click.ParamType):
    """A time as people write it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        try:
            return seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def seconds(time: float | str) -> float:
    """Return seconds, from a number of them or a text such as 10m.

    Raises:
        ValueError: it is no time, or none at all.
    """
    if isinstance(time, int | float) and not isinstance(time, bool) and 0 < time < math.inf:
        return float(time)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", str(time))
    if found is None or not float(found[1]):
        raise ValueError(f"{time!r} is no time: a number and a unit, such as 90s, 10m or 2h")
    return float(found[1]) * UNITS[found[2]]


def say(talk: Console, text: str) -> None:
    """Print a line of talk as it is: names from the user are no markup, and nothing in it moves the cursor."""
    text = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
    talk.print(text, markup=False, highlight=False, soft_wrap=True)


def time_in_words(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_in_words(size: float) -> str:
    """Return a number of bytes as people say it: 540 kB, 12 MB, 3.5 GB."""
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:.1f} {unit}" if size < 10 * one else f"{size / one:,.0f} {unit}"
    return f"{size / 1e3:.0f} kB"


def report_damage(contents: Contents, talk: Console) -> None:
    """Warn of what in a store could not be read."""
    for damage in contents.damage:
        say(talk, f"Warning: {damage}")


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """Return where to print tables, or talk; in a notebook too, plain text."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # In a pipe a table is as wide as it needs to be.
    width = None if stream is not None and stream.isatty() else 200
    return Console(stderr=stderr, width=width, quiet=quiet, force_jupyter=False)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))
