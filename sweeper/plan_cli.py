"""The command ``sweeper plan``: what a sweep will take, before anything runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper.data_cli import DATA_OPTIONS
from sweeper.launch_cli import launch
from sweeper.printing import console, print_json, say, size_in_words, time_in_words
from sweeper.request import RECORDED, as_request
from sweeper.run import carry_out

if TYPE_CHECKING:
    from sweeper.plan import Plan, Range

OPTIONS = (
    *("grid_name", "strategies", "data_name", *DATA_OPTIONS, "models", "steps", "folder"),
    *("cpus", "gpus_per_trial", "max_concurrent", "pack", "keep_weights", "form"),
)

BUSY = 0.8
"""Of a CPU; a worker that gets less shares it with others."""


@click.command()
@click.pass_context
def plan(context: click.Context, **options: Any) -> None:
    """Predict trials, time, memory and disk of a launch with the same options, before anything runs.

    A pack of each kind trains for a few steps on a worker like those that would train it. Exit code 4 says that the
    sweep does not fit into this machine's memory or disk.

    \b
    sweeper plan --grid lora_ranks
    sweeper plan --grid strategies --strategy lora --strategy full --cpus 1
    sweeper plan --grid strategies --data reviews.csv --model minilm --format json
    """
    begun, talk = time.monotonic(), console(stderr=True)
    names = {ours: own for own, ours in RECORDED.items()}
    given = {names.get(name, name): value for name, value in options.items()}
    asked = as_request({**given, "results": options["folder"], "dry_run": True})
    outcome = carry_out(asked)
    store, grid = outcome.store, outcome.grid
    todo = [trial for trial in grid.trials if trial.trial_id not in outcome.done]
    if not todo:
        say(talk, f"Nothing to run: all {len(grid.trials)} trials are in {store.name}.")
        if options["form"] == "json":
            print_json({"grid": grid.name, "trials": 0})
        return
    from sweeper.plan import plan as predict
    from sweeper.progress import Bar

    with Bar("kinds of packs rehearsed", talk) as bar:
        found = predict(
            todo,
            Path.cwd() if store.is_remote else store.path,
            before=time.monotonic() - begun,
            told=bar.tell,
            cpus=asked.cpus,
            gpus_per_trial=asked.gpus_per_trial,
            max_concurrent=asked.max_concurrent,
            pack_size=asked.pack,
            keep_weights=asked.keep_weights,
        )
    if options["form"] == "json":
        print_json({"grid": grid.name, **asdict(found)})
    else:
        _print(grid.name, found)
    if found.does_not_fit:
        context.exit(4)


plan.params = [parameter for name in OPTIONS for parameter in launch.params if parameter.name == name]


def _print(grid: str, found: Plan) -> None:
    out = console()
    alone = f", {found.alone} trials one after the other" if found.alone else ""
    disk = ", ".join(f"{what} {size_in_words(size)}" for what, size in found.disk_bytes.items() if size)
    say(
        out,
        f"{grid}: {found.trials} trials in {found.packs} packs{alone}, {found.workers} at once\n"
        f"time     {_range(found.seconds, time_in_words)}\n"
        f"memory   {_range(found.memory_bytes, size_in_words)}; "
        f"the largest worker {_range(found.worker_bytes, size_in_words)}\n"
        f"disk     {size_in_words(sum(found.disk_bytes.values()))}: {disk}\n"
        "Ranges hold 9 of 10 sweeps on a machine as busy as now.",
    )
    if found.share < BUSY:
        alone = time_in_words(found.seconds.expected * found.share)
        say(
            out,
            f"It is busy: a worker gets {100 * found.share:.0f} % of a CPU. With nothing else to do: about {alone}.",
        )
    if len(found.slowest) > 1:
        say(out, "Most of the time, of all workers together:")
        for what, seconds in found.slowest:
            say(out, f"  {time_in_words(seconds):>7}  {what}")
    if found.rehearsed < found.kinds - len(found.troubles):
        say(out, f"{found.rehearsed} of {found.kinds} kinds of packs were rehearsed, the others taken from like ones.")
    for line in found.troubles:
        say(out, f"Trouble: {line}")
    for line in found.does_not_fit:
        say(out, f"Does not fit: {line}")


def _range(value: Range, words: Callable[[float], str]) -> str:
    return f"{words(value.expected)} ({words(value.low)} to {words(value.high)})"
