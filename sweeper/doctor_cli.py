"""The command ``sweeper doctor``: what of this machine stands in the way, and what mends it."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import Any

import click

from sweeper.printing import format_option, print_json, results_option

STYLES: dict[str, dict[str, Any]] = {
    "ok": {"fg": "green"},
    "off": {"dim": True},
    "warn": {"fg": "yellow"},
    "fail": {"fg": "red", "bold": True},
}


@click.command()
@results_option
@click.option("--ray", "with_ray", is_flag=True, help="Start a local Ray too, which takes 3 to 15 seconds.")
@format_option
def doctor(folder: str, with_ray: bool, form: str) -> None:
    """Check this machine: packages, devices, folders, limits; exit code 1 where something fails, with the fix.

    off is an extra that is not here: it is needed by some commands alone, which say so.

    \b
    sweeper doctor
    sweeper doctor --ray --results /data/sweeps
    sweeper doctor --format json
    """
    from sweeper.doctor import FAIL, checks

    found = []
    # Without rich, which may be what is missing.
    colour = False if os.environ.get("NO_COLOR") else True if os.environ.get("FORCE_COLOR") else None
    for check in checks(folder, with_ray):
        found.append(check)
        if form == "human":
            level = click.style(f"{check.level:5}", **STYLES[check.level])
            click.echo(f"{level}{check.name:18} {check.found}", color=colour)
            if check.fix:
                click.echo(f"{'':23} fix: {check.fix}")
    failed = [check for check in found if check.level == FAIL]
    if form == "json":
        print_json({"ok": not failed, "checks": [asdict(check) for check in found]})
    sys.exit(1 if failed else 0)
