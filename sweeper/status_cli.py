"""The commands ``sweeper status`` and ``sweeper stop``: what launches into a store are at, and their end."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime

import click

from sweeper.printing import console, format_option, print_json, results_option, say, time_in_words
from sweeper.results import ResultsStore
from sweeper.standing import DONE, RUNNING, Standing, ask_to_stop, standings

PATIENCE = 60.0
"""Seconds that `sweeper stop` waits for launches to end."""


@click.command()
@results_option
@click.option("--web", is_flag=True, help="Show it in a browser: a page on this machine alone, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the page. [default: any that is free]")
@format_option
def status(folder: str, web: bool, port: int, form: str) -> None:
    """Say what of each launch ran, runs, is left and failed, how long it will take, and what is best so far.

    Launches that run or were cut off, and the last that ended. Exit code 3 says that trials failed.

    \b
    sweeper status
    sweeper status --results s3://bucket/sweeps --format json
    sweeper status --web
    """
    store = ResultsStore(folder)
    if web:
        from sweeper.live import serve_until_interrupted

        serve_until_interrupted(store, port, console(stderr=True))
        return
    found = standings(store)
    if form == "json":
        print_json([{**asdict(one), "left": one.left, "failed": one.failed} for one in found])
    else:
        for one in found:
            _print(one)
        if not found:
            say(console(stderr=True), f"No launch into {folder} runs or was cut off; `sweeper show` has the rows.")
    if any(one.failed for one in found):
        sys.exit(3)


@click.command()
@results_option
@format_option
def stop(folder: str, form: str) -> None:
    """Ask running launches into a store to stop, from any terminal or machine that has the store.

    They end as with Ctrl-C: what is finished is in the store, and what has trained for longer than a minute goes on
    from its last checkpoint.

    \b
    sweeper stop
    sweeper resume
    """
    store, talk = ResultsStore(folder), console(stderr=True)
    running = [one for one in standings(store) if one.state == RUNNING]
    for one in running:
        ask_to_stop(store, one)
    if not running:
        say(talk, f"Nothing runs into {folder}.")
    names, until, ended = {one.launch for one in running}, time.monotonic() + PATIENCE, list[Standing]()
    while len(ended) < len(running):
        if time.monotonic() > until:
            raise OSError(
                f"{len(running) - len(ended)} launches into {folder} have not stopped in {PATIENCE:.0f} s: "
                "`sweeper status` shows what they are at"
            )
        time.sleep(0.5)
        ended = [one for one in standings(store) if one.launch in names and one.state != RUNNING]
    if form == "json":
        told = ("launch", "grid", "host", "state", "done", "total")
        print_json([{name: getattr(one, name) for name in told} for one in ended])
        return
    for one in ended:
        say(console(), f"{one.grid} on {one.host}: {one.state}, {one.done} of {one.total} trials done.")
    if ended:
        say(talk, "`sweeper resume` goes on from there.")


def _print(one: Standing) -> None:
    """Print one launch; what rows and grids say is of others, and no terminal acts on it."""
    out = console()
    began = datetime.fromisoformat(one.started)
    spent = (datetime.fromisoformat(one.updated) - began).total_seconds()
    by = f" by {one.by}" if one.by else ""
    since = "since" if one.state == RUNNING else "began"
    say(out, f"{one.grid}: {one.state}{by}, {since} {began.astimezone(UTC):%Y-%m-%d %H:%M} UTC on {one.host}")
    parts = [f"{one.done}/{one.total} trials", f"{one.running} running", f"{one.left} left", f"{one.failed} failed"]
    parts += [f"{n} {name.replace('_', ' ')}" for name, n in one.statuses.items() if name != "complete"]
    parts.append(f"{time_in_words(spent)} so far" if one.state == RUNNING else f"took {time_in_words(spent)}")
    if one.seconds_left is not None:
        parts.append(f"{time_in_words(one.seconds_left)} left")
    say(out, "  " + " | ".join(parts))
    for best in one.best:
        settings = f" {best['settings']}" if best["settings"] else ""
        scores = f"valid {100 * best['valid']:.1f}, test {100 * best['test']:.1f} ({best['seeds']} trials)"
        place = f"{best['model']} on {best['task']}, {best['n_train']} rows"
        say(out, f"  {place}: {best['strategy']}{settings} lr={best['lr']:g}: {scores}")
    for failure in one.failures:
        say(out, f"  {failure['trial_id']} {failure['strategy']}: {failure['status']}: {failure['reason']}")
    if one.state not in (RUNNING, DONE):
        say(out, "  `sweeper resume` goes on from there.")
