"""The command ``sweeper doctor``: what of this machine stands in the way, and what mends it."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from sweeper.printing import console, format_option, print_json, results_option

STYLES = {"ok": "green", "off": "dim", "warn": "yellow", "fail": "bold red"}


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
    from rich.text import Text

    from sweeper.doctor import FAIL, checks

    found = []
    out = console()
    for check in checks(folder, with_ray):
        found.append(check)
        if form == "human":
            line = Text.assemble((f"{check.level:5}", STYLES[check.level]), f"{check.name:18} {check.found}")
            out.print(line, soft_wrap=True)
            if check.fix:
                out.print(Text(f"{'':23} fix: {check.fix}"), soft_wrap=True)
    failed = [check for check in found if check.level == FAIL]
    if form == "json":
        print_json({"ok": not failed, "checks": [asdict(check) for check in found]})
    sys.exit(1 if failed else 0)
