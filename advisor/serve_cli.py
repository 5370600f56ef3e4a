"""The command ``advisor serve``: parse, load, listen."""

from __future__ import annotations

from typing import Any

import click

from advisor.evidence import PACKAGED, load
from advisor.options import fitted_option, fitted_path
from sweeper.listen import check_packages, listen_options, open_door
from sweeper.listen import serve as answer


@click.command()
@fitted_option
@listen_options
def serve(fitted: str | None, **where: Any) -> None:
    """Answer over HTTP: a page with the four questions for people, /recommend for programs.

    \b
    advisor serve
    advisor serve --port 0 --fitted results/advisor.json

    Without other options it answers on this machine alone, and to those who know the token.
    """
    check_packages("advisor serve")
    path = fitted_path(fitted)
    stored = load(path)
    door = open_door(**where)
    from advisor.service import service

    app = door.guarded(
        service(stored, "shipped" if path == PACKAGED else str(path), door.token is not None), pages=True
    )
    link = f"{door.address}/" if door.token is None else f"{door.address}/?token={door.how}"
    click.echo(f"Advising on {door.address}; Ctrl-C ends it. Open in a browser:", err=True)
    click.echo(f"  {link}", err=True)
    click.echo("or ask:", err=True)
    click.echo("  " + door.curl("/recommend", '{"large": true, "compute": "low"}'), err=True)
    answer(app, door)
