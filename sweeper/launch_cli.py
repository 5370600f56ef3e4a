"""The commands ``sweeper launch`` and ``sweeper resume``: parse, call `sweeper.run`, print."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sweeper.completion import names
from sweeper.data_cli import data_options
from sweeper.early_stop import RULES
from sweeper.launches import unfinished
from sweeper.loggers import SINKS
from sweeper.printing import Duration, console, format_option, print_json, results_option, say
from sweeper.request import RECORDED, RECORDED_FIELDS, as_request
from sweeper.results import ResultsStore
from sweeper.run import carry_out
from sweeper.search import LEAST_SETTINGS, OBJECTIVES, SEARCHES
from sweeper.spec import Status

if TYPE_CHECKING:
    from sweeper.outcome import Outcome


@click.command()
@click.option(
    "--grid",
    "grid_name",
    required=True,
    metavar="NAME|FILE.toml",
    help="A shipped grid (`sweeper ls`) or a file.",
    shell_complete=names("grid"),
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME",
    shell_complete=names("strategy"),
    help="Only this one, also one that the grid lacks, such as peft:METHOD; may be given again.",
)
@click.option("--data", "data_name", metavar="DATA", help="Your own rows, instead of the grid's tasks.")
@data_options
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="For --data; may be given again.",
    shell_complete=names("model"),
)
@click.option("--steps", type=click.IntRange(1), help="For --data. [default: what suits the rows]")
@results_option
@click.option("--dry-run", is_flag=True, help="Show the trials and their number, and run nothing.")
@click.option("--cpus", type=click.IntRange(1), help="CPUs for the local Ray. [default: all]")
@click.option(
    "--gpus-per-trial",
    type=click.FloatRange(0),
    help="GPUs for each pack, fractions allowed. [default: 1 if there are any]",
)
@click.option("--max-concurrent", type=click.IntRange(1), help="Packs at once. [default: as many as fit]")
@click.option(
    "--pack",
    type=click.IntRange(1),
    help="Trials that train together in one pass at most. [default: what is faster, measured]",
)
@click.option(
    "--search",
    type=click.Choice(["grid", *SEARCHES]),
    default="grid",
    show_default=True,
    help="grid: every trial. " + " ".join(f"{name}: {search.summary}." for name, search in SEARCHES.items()),
)
@click.option(
    "--settings",
    type=click.IntRange(1),
    metavar="N",
    help="For a search that chooses: settings to try on each model, task and number of rows. "
    f"[default: a quarter of the grid's, at least {LEAST_SETTINGS}]",
)
@click.option(
    "--objective",
    "objectives",
    type=click.Choice([*OBJECTIVES]),
    multiple=True,
    help="What a search is after; given again, settings are chosen that none is better than in all. [default: score]",
)
@click.option("--budget", type=Duration(), metavar="TIME", help="No trial starts after this long: 90s, 10m, 2h.")
@click.option(
    "--early-stop",
    type=click.Choice([*RULES]),
    help="Stop trials that fall behind. " + " ".join(f"{name}: {text}." for name, text in RULES.items()),
)
@click.option(
    "--trial-timeout",
    "time_limit",
    type=Duration(),
    metavar="TIME",
    help="End what takes longer a trial, and go on with the others. [default: no limit]",
)
@click.option(
    "--stop-after",
    type=Duration(),
    metavar="TIME",
    help="Stop then, whatever trains; `sweeper resume` goes on from there. [default: no limit]",
)
@click.option("--live", is_flag=True, help="Show it in a browser while it runs: a page on this machine alone.")
@click.option("--keep-weights", is_flag=True, help="Save what each trial learned, in DIR/adapters.")
@click.option(
    "--log",
    multiple=True,
    metavar="NAME[=WHERE]",
    help="Tell a tracker of each trial: " + ", ".join(SINKS) + "; mlflow=URI and wandb=DIR say where.",
)
@click.option("--address", metavar="ADDRESS", help='Ray cluster: "auto" or "host:port". [default: local]')
@format_option
def launch(folder: str, form: str, **options: Any) -> None:
    """Run the trials of a grid that the store does not hold yet.

    \b
    sweeper launch --grid lora_ranks
    sweeper launch --grid strategies --dry-run
    sweeper launch --grid my_grid.toml --results runs --cpus 4
    sweeper launch --grid strategies --strategy lora --strategy peft:vera
    sweeper launch --grid strategies --data reviews.csv --model minilm
    sweeper launch --grid strategies --search halving --budget 10m
    sweeper launch --grid strategies --early-stop median
    sweeper launch --grid lora_ranks --log mlflow=sqlite:///mlflow.db
    sweeper launch --grid strategies --live --stop-after 8h
    """
    names = {ours: own for own, ours in RECORDED.items()}
    asked = as_request({names.get(name, name): value for name, value in options.items()} | {"results": folder})
    outcome = carry_out(asked)
    if asked.dry_run:
        _print_plan(outcome, form)
        return
    _print_outcome(outcome, form)
    if any(not status.is_final for status in outcome.ran):
        sys.exit(3)


@click.command()
@results_option
@format_option
@click.pass_context
def resume(context: click.Context, folder: str, form: str) -> None:
    """Run what launches into a store were cut off from, or failed at, with the options that they had.

    A trial that was training goes on from its last checkpoint, on the machine that has it.

    \b
    sweeper resume
    sweeper resume --results s3://bucket/sweeps
    """
    codes = []
    commands: list[dict[str, Any]] = []
    for file, options in unfinished(ResultsStore(folder)):
        if set(options) != {RECORDED.get(name, name) for name in RECORDED_FIELDS}:
            raise ValueError(f"{file} is not of this version: launch it again by hand")
        if str(options["grid_name"]).startswith("<"):
            say(
                console(stderr=True),
                f"{options['grid_name']} was launched from Python: the same call goes on from there.",
            )
        elif options not in commands:
            commands.append(options)
    for options in commands:
        say(console(stderr=True), f"Resuming --grid {options['grid_name']}, launched into {folder} before.")
        try:
            given = {key: tuple(own) if isinstance(own, list) else own for key, own in options.items()}
            context.invoke(launch, **{**given, "folder": folder, "form": form})
            codes.append(0)
        except SystemExit as ended:
            codes.append(int(ended.code or 0))
    if not commands:
        say(console(stderr=True), f"Nothing to resume: every launch into {folder} has come to its end.")
    sys.exit(max(codes, default=0))


def _print_plan(outcome: Outcome, form: str) -> None:
    grid, final = outcome.grid, outcome.done
    if form == "json":
        trials = [{"trial_id": t.trial_id, "done": t.trial_id in final, **t.to_dict()} for t in grid.trials]
        without = [asdict(left) for left in outcome.left_out]
        print_json({"grid": grid.name, "question": grid.question, "trials": trials, "left_out": without})
        return
    from sweeper.table import short

    for t in grid.trials:
        settings = " ".join(f"{k}={short(v)}" for k, v in {**t.hparams, **t.to_dict()["train"]}.items())
        mark = "done" if t.trial_id in final else "new "
        click.echo(f"{t.trial_id} {mark} {t.model} {t.task} n_train={t.n_train} seed={t.seed} {t.strategy} {settings}")
    click.echo(f"{len(grid.trials)} trials, {len(final & {t.trial_id for t in grid.trials})} of them done.")


def _print_outcome(outcome: Outcome, form: str) -> None:
    """Print the final table, draw the picture, and say what to type next."""
    from sweeper.outcome import next_command, report_command, serve_command
    from sweeper.table import as_json, print_summary

    lines, statuses = outcome.lines, outcome.statuses
    picture = outcome.draw()
    following, why = next_command(outcome.store, lines) if lines else (None, "")
    if form == "json":
        print_json(
            {
                "grid": outcome.grid.name,
                "question": outcome.grid.question,
                "trials": len(outcome.grid.trials),
                "ran": sum(outcome.ran.values()),
                "statuses": statuses,
                "lines": as_json(lines),
                "results": outcome.store.name,
                "picture": None if picture is None else str(picture),
                "next": following,
                "report": report_command(outcome.store) if lines else None,
                "serve": serve_command(outcome),
                "similarity": why or None,
            }
        )
        return
    print_summary(lines, console())
    talk = console(stderr=True)
    for status, number in statuses.items():
        if status != Status.COMPLETE:
            example = next(row for row in outcome.rows if row.status == status)
            say(talk, f"{number} {status}, for example {example.trial_id}: {example.error}")
    if lines:
        if picture is not None:
            say(talk, f"Picture: {picture}")
        say(talk, f"Next: {following}")
        if why:
            say(talk, f"({why})")
        say(talk, f"Report: {report_command(outcome.store)}")
        serve = serve_command(outcome)
        if serve and outcome.best is not None:
            say(talk, f"Serve the best on valid, {outcome.best.spec.strategy}: {serve}")
