"""The command ``sweeper launch``: what is to run, round after round of a search, and what came of it."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import click

from sweeper.adapters_cli import without_folder
from sweeper.completion import names
from sweeper.data_cli import DATA_OPTIONS, data_options, own_data_of
from sweeper.early_stop import RULES
from sweeper.launches import LEFT_OUT, forget, recorded, unfinished
from sweeper.objects import is_url
from sweeper.printing import Duration, console, format_option, print_json, report_damage, results_option, say
from sweeper.results import ResultsStore
from sweeper.search import LEAST_SETTINGS, OBJECTIVES, SEARCHES, Situation, rungs
from sweeper.spec import Status, TrialResult, TrialSpec
from sweeper.sweep import done, missing
from sweeper.upkeep import settle

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.grid import Grid
    from sweeper.summary import Line
    from sweeper.trial import LeftOut


Climbing = Generator[list[TrialSpec], Sequence[TrialResult], None]


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
@click.option("--keep-weights", is_flag=True, help="Save what each trial learned, in DIR/adapters.")
@click.option("--address", metavar="ADDRESS", help='Ray cluster: "auto" or "host:port". [default: local]')
@format_option
def launch(
    grid_name: str,
    strategies: tuple[str, ...],
    folder: str,
    dry_run: bool,
    address: str | None,
    form: str,
    pack: int | None,
    data_name: str | None,
    models: tuple[str, ...],
    steps: int | None,
    search: str,
    settings: int | None,
    objectives: tuple[str, ...],
    budget: float | None,
    early_stop: str | None,
    **resources: Any,
) -> None:
    """Run the trials of a grid that the store does not hold yet.

    \b
    sweeper launch --grid lora_ranks
    sweeper launch --grid strategies --dry-run
    sweeper launch --grid my_grid.toml --results runs --cpus 4
    sweeper launch --grid strategies --strategy lora --strategy peft:vera
    sweeper launch --grid strategies --data reviews.csv --model minilm
    sweeper launch --grid strategies --search halving --budget 10m
    sweeper launch --grid strategies --early-stop median
    """
    from sweeper.grid import load_grid
    from sweeper.trial import check_all

    # Everything that can be wrong with the request is found before anything runs or is written.
    if (address or "").startswith("ray://"):
        raise click.UsageError(
            f"--address {address} is Ray Client's, with which the store would be written on the cluster's head: "
            "`sweeper submit --address http://HEAD:8265` runs the same there, or name the head's own port, HEAD:6379"
        )
    if address is not None and resources["cpus"] is not None:
        raise click.UsageError("--cpus is for a local Ray; a cluster at --address has its own")
    share = resources["gpus_per_trial"]
    if share is not None and not (0 <= share <= 1 or share.is_integer()):
        raise click.UsageError(f"--gpus-per-trial must be a share of one GPU or a whole number, got {share:g}")
    if settings is not None and not SEARCHES[search].chooses:
        choosing = ", ".join(name for name, entry in SEARCHES.items() if entry.chooses)
        raise click.UsageError(f"--settings is for a search that chooses ({choosing}), and --search is {search}")
    if resources["keep_weights"] and is_url(folder):
        raise click.UsageError(f"--keep-weights needs a folder, and {folder} is object storage")
    if objectives and search == "grid":
        raise click.UsageError("--objective is for a search, and --search grid runs every trial")
    store = ResultsStore(folder, create=True)
    own = own_data_of(data_name, models, steps, {name: resources.pop(name) for name in DATA_OPTIONS})
    grid = load_grid(grid_name, strategies, own)
    try:
        trials, left_out = check_all(grid.trials, lenient=own is not None and not strategies)
    except ValueError as error:
        raise ValueError(f"{grid_name}: {error}") from None
    grid = replace(grid, trials=tuple(trials))
    if not dry_run:
        settle(store)
    contents = store.read()
    final = done(contents.results, early_stop)
    todo = [trial for trial in grid.trials if trial.trial_id not in final]

    out, talk = console(), console(stderr=True)
    report_damage(contents, talk)
    for note in grid.notes:
        say(talk, note)
    for left in left_out:
        say(talk, f"Left out: {left.what}, {left.trials} trials: {left.reason}")
    advice = _advice(grid.trials) if search == "advisor" else None
    climb = partial(rungs, search, grid.trials, settings, objectives or ("score",), advice)
    if dry_run:
        if search != "grid":
            grid = replace(grid, trials=tuple(next(climb())))
        _print_plan(grid, left_out, final, form)
        return
    say(talk, f"{grid.name}: {grid.question}")
    if todo:
        if search == "grid":
            already = len(grid.trials) - len(todo)
            say(talk, f"{len(todo)} trials to run, {already} already in {folder}. Starting Ray ...")
        how = {**resources, "address": address, "pack_size": pack, "early_stop": early_stop}
        how["options"] = click.get_current_context().params
        counts = _run(grid, climb(), store, talk, how, search, budget)
    else:
        counts = {}
        forget(store, click.get_current_context().params)
        say(talk, f"Nothing to run: all {len(grid.trials)} trials are in {folder}.")
    _print_outcome(grid, store, counts, form, out, talk)
    if any(not status.is_final for status in counts):
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
    known = {parameter.name for parameter in launch.params if parameter.expose_value}
    commands: list[dict[str, Any]] = []
    for file, options in unfinished(ResultsStore(folder)):
        if set(options) != known - {*LEFT_OUT}:
            raise ValueError(f"{file} is not of this version: launch it again by hand")
        if options not in commands:
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


def _advice(trials: Sequence[TrialSpec]) -> dict[Situation, dict[str, Mapping[str, Any]]]:
    """Return what the advisor says to each model, task and number of rows: strategies and settings, the best first."""
    from sweeper.trial import described

    # The advisor rests on the sweeper, and so the sweeper finds it by name alone.
    entries = entry_points(group="sweeper.advice")
    if not entries:
        raise ValueError("--search advisor finds no advisor: it comes with `pip install sweeper-advisor`")
    ask = next(iter(entries)).load()
    found = {}
    for trial in {(trial.model, trial.task, trial.n_train): trial for trial in trials}.values():
        params, modality = described(trial)
        found[trial.model, trial.task, trial.n_train] = ask(params, trial.n_train, modality)
    return found


def _run(
    grid: Grid,
    climb: Climbing,
    store: ResultsStore,
    talk: Console,
    how: dict[str, Any],
    search: str,
    budget: float | None,
) -> dict[Status, int]:
    """Run what is missing, rung after rung of a search, and return how many trials ended how."""
    from sweeper.cache import cache_folder
    from sweeper.launch import connected, gpus_for  # Ray takes seconds to import: the message comes first

    counts: Counter[Status] = Counter()
    kept = store.path.absolute() / "adapters" if how.pop("keep_weights") else None
    checkpoints = (cache_folder() if store.is_remote else store.path.absolute()) / "checkpoints"
    options = how.pop("options")
    rows, until = None, None
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        stack.enter_context(connected(how["address"], how["cpus"]))
        gpus_for(how["gpus_per_trial"])  # before anything is written
        store.mark()  # a worker's folder must not be what makes it look like something else
        end = stack.enter_context(recorded(store, options))
        if budget is not None:
            until = time.time() + budget
        while True:
            try:
                trials = climb.send(rows)  # type: ignore[arg-type]  # the first takes nothing
            except StopIteration:
                if all(status.is_final for status in counts):
                    end()
                break
            counts += _run_all(
                trials, grid, store, talk, {**how, "weights": kept, "checkpoints": checkpoints, "until": until}, search
            )
            rows = rows_of(store.read().results, trials)
            left = len(trials) - len(rows)
            if left:
                say(talk, f"Time is up: {left} trials have not started; the same command goes on from there.")
                break
    if kept:
        missing = without_folder(rows_of(store.read().results, grid.trials), kept)
        say(talk, f"Weights: {kept}")
        if missing:
            say(talk, f"{len(missing)} complete trials have none there; `sweeper adapters save {missing[0].trial_id}`")
    return counts


def _run_all(
    trials: Sequence[TrialSpec], grid: Grid, store: ResultsStore, talk: Console, how: dict[str, Any], search: str
) -> Counter[Status]:
    """Run those of these trials that the store does not hold."""
    from sweeper.early_stop import EarlyStop
    from sweeper.launch import launch as run_sweep
    from sweeper.progress import SweepProgress

    stored = store.read().results
    final = done(stored, how["early_stop"])
    todo = [trial for trial in trials if trial.trial_id not in final]
    if search != "grid":
        steps = " or ".join(map(str, sorted({trial.train.steps for trial in trials})))
        say(talk, f"{search}: {len(trials)} trials of {steps} steps, {len(trials) - len(todo)} done before.")
    progress = SweepProgress(len(todo), talk)
    try:
        if todo:
            # The last round of a search compares means over seeds: without its worst seeds a mean would flatter.
            last = search != "grid" and len({trial.seed for trial in todo}) > 1
            judge = EarlyStop(how["early_stop"], rows_of(stored, trials)) if how["early_stop"] and not last else None
            run_sweep(todo, store, progress, grid=grid.name, **{**how, "early_stop": judge})
    except KeyboardInterrupt:
        progress.close()
        stored_now = f"{progress.done} finished trials are in {store.name}"
        say(talk, f"Interrupted. {stored_now}; the same command goes on from there.")
        raise
    finally:
        progress.close()
    # What counts is what the disk holds, not what this process believes to have written.
    without = missing(store, todo) if todo else []
    if without and (len(without) > len(todo) - progress.done or how["until"] is None or time.time() < how["until"]):
        raise OSError(
            f"only {len(todo) - len(without)} of {len(todo)} trials have a row in {store.name!r}; "
            "run the same command again for the missing ones"
        )
    return Counter(progress.counts)


def _print_plan(grid: Grid, left_out: Sequence[LeftOut], final: set[str], form: str) -> None:
    if form == "json":
        trials = [{"trial_id": t.trial_id, "done": t.trial_id in final, **t.to_dict()} for t in grid.trials]
        without = [asdict(left) for left in left_out]
        print_json({"grid": grid.name, "question": grid.question, "trials": trials, "left_out": without})
        return
    from sweeper.table import short

    for t in grid.trials:
        settings = " ".join(f"{k}={short(v)}" for k, v in {**t.hparams, **t.to_dict()["train"]}.items())
        mark = "done" if t.trial_id in final else "new "
        click.echo(f"{t.trial_id} {mark} {t.model} {t.task} n_train={t.n_train} seed={t.seed} {t.strategy} {settings}")
    click.echo(f"{len(grid.trials)} trials, {len(final & {t.trial_id for t in grid.trials})} of them done.")


def _print_outcome(
    grid: Grid, store: ResultsStore, counts: dict[Status, int], form: str, out: Console, talk: Console
) -> None:
    """Print the final table, draw the picture, and say what to type next."""
    from sweeper.picture import draw
    from sweeper.summary import summarise
    from sweeper.table import as_json, print_summary

    rows = rows_of(store.read().results, grid.trials)
    lines = summarise(rows)
    picture = None if store.is_remote else store.path / "pictures" / f"{grid.name}.png"
    following, why = _next_command(store, lines) if lines else (None, "")
    if lines and picture is not None:
        draw(lines, grid.question, picture)
    if form == "json":
        print_json(
            {
                "grid": grid.name,
                "question": grid.question,
                "trials": len(grid.trials),
                "ran": sum(counts.values()),
                "statuses": _statuses(rows),
                "lines": as_json(lines),
                "results": store.name,
                "picture": str(picture) if lines and picture is not None else None,
                "next": following,
                "similarity": why or None,
            }
        )
        return
    print_summary(lines, out)
    for status, number in _statuses(rows).items():
        if status != Status.COMPLETE:
            example = next(row for row in rows if row.status == status)
            say(talk, f"{number} {status}, for example {example.trial_id}: {example.error}")
    if lines:
        if picture is not None:
            say(talk, f"Picture: {picture}")
        say(talk, f"Next: {following}")
        if why:
            say(talk, f"({why})")


def rows_of(rows: Sequence[TrialResult], trials: Sequence[TrialSpec]) -> list[TrialResult]:
    """Return the rows that are of these trials."""
    wanted = {trial.trial_id for trial in trials}
    return [row for row in rows if row.trial_id in wanted]


def _next_command(store: ResultsStore, lines: list[Line]) -> tuple[str, str]:
    """Return the command that asks for advice on the first situation of a sweep, and why it says how similar."""
    from sweeper.summary import SIMILAR_FROM, similarity, transfer

    own = str(store.path) != "results"
    fit = f"advisor fit --results {shlex.quote(store.name)}" if own else "advisor fit"
    fitted = "advisor.json" if store.is_remote else shlex.quote(str(store.path / "advisor.json"))
    recommend = f"advisor recommend --fitted {fitted}" if own else "advisor recommend"
    first = lines[0]
    facts = first.trials[0].context
    recommend += f" --model-params {facts['model_params']} --n-train {first.n_train} --modality {facts['modality']}"
    here = [line for line in lines if line.situation == first.situation]
    why = ""
    found = similarity(here)
    if found is not None:
        why = f"the source model does {100 * found:.0f} % as well on {first.task} as on its own domain"
    else:
        found = transfer(here)
        if found is not None:
            why = f"frozen features of {first.model} go {100 * found:.0f} % of the way from chance to perfect"
    if found is not None:
        flag = "--task-similar" if found >= SIMILAR_FROM else "--task-different"
        recommend += f" {flag}"
        why = f"{flag}: {why}; {100 * SIMILAR_FROM:.0f} % counts as similar, a rule of thumb"
    return f"{fit} && {recommend}", why


def _statuses(rows: list[TrialResult]) -> dict[str, int]:
    return dict(Counter(row.status.value for row in rows))
