"""What the commands share: how they print, and the options that most of them have."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from dataclasses import dataclass
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


@dataclass
class Manners:
    """How much a command says: what `--quiet` and `--verbose` set, in the context of the command that runs."""

    quiet: bool = False
    verbose: bool = False


def is_quiet() -> bool:
    """Return whether the command that runs is to print data, warnings and errors alone."""
    context = click.get_current_context(silent=True)
    manners = context.find_object(Manners) if context is not None else None
    return manners is not None and manners.quiet


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


def plain(text: str) -> str:
    """Return a text without what a terminal would act on: names and files of others may hold anything."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def say(talk: Console, text: str) -> None:
    """Print a line of talk as it is: names from the user are no markup, and nothing in it moves the cursor."""
    talk.print(plain(text), markup=False, highlight=False, soft_wrap=True)


def tell(text: str) -> None:
    """Print a line of talk on stderr, unless the command is to be quiet."""
    if not is_quiet():
        click.echo(plain(text), err=True)


def warn(text: str) -> None:
    """Print on stderr what is wrong and does not end the command; a quiet one says it too."""
    click.echo(plain(text), err=True)


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
    """Warn of what in a store could not be read; a quiet command does so too."""
    for damage in contents.damage:
        if is_quiet():
            warn(f"Warning: {damage}")
        else:
            say(talk, f"Warning: {damage}")


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """Return where to print tables, or talk; in a notebook too, plain text.

    In a pipe a table is as wide as it needs to be, and there is no colour unless FORCE_COLOR asks for it; what moves,
    such as a bar, is for terminals alone. NO_COLOR takes colour away everywhere.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    terminal = stream is not None and stream.isatty()
    return Console(
        stderr=stderr,
        width=None if terminal else 200,
        force_terminal=terminal,
        force_jupyter=False,
        color_system="standard" if os.environ.get("FORCE_COLOR") and not terminal else "auto",
        quiet=quiet or (stderr and is_quiet()),
    )


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))
