"""The command ``sweeper``: parse, call one function, print."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from sweeper import __version__
from sweeper.adapters_cli import adapters, without_folder
from sweeper.command import run
from sweeper.data_cli import DATA_OPTIONS, data, data_options, init, own_data_of
from sweeper.early_stop import RULES
from sweeper.results import Contents, ResultsStore, read_store
from sweeper.search import SEARCHES, rungs
from sweeper.spec import Status, TrialResult, TrialSpec

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.grid import Grid
    from sweeper.summary import Line
    from sweeper.trial import LeftOut

results_option = click.option(
    "--results", "folder", default="results", show_default=True, metavar="DIR", help="The results store."
)
format_option = click.option(
    "--format", "form", type=click.Choice(["human", "json"]), default="human", show_default=True, help="How to print."
)


class _Duration(click.ParamType):
    """A time as people write it."""

    name = "time"
    units = MappingProxyType({"s": 1, "m": 60, "h": 3600})

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", str(value))
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is no time: a number and a unit, such as 90s, 10m or 2h", param, ctx)
        return float(found[1]) * self.units[found[2]]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sweeper")
def cli() -> None:
    """Sweep fine-tuning strategies and their hyperparameters in parallel, and keep every measurement.

    \b
    sweeper launch --grid lora_ranks     run a sweep
    sweeper show                         its rows
    advisor fit && advisor recommend     what they advise
    """


cli.add_command(adapters)
cli.add_command(data)
cli.add_command(init)


@cli.command()
@click.option(
    "--grid", "grid_name", required=True, metavar="NAME|FILE.toml", help="A shipped grid (`sweeper ls`) or a file."
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME",
    help="Only this one, also one that the grid lacks, such as peft:METHOD; may be given again.",
)
@click.option("--data", "data_name", metavar="DATA", help="Your own rows, instead of the grid's tasks.")
@data_options
@click.option("--model", "models", multiple=True, metavar="NAME", help="For --data; may be given again.")
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
@click.option("--budget", type=_Duration(), metavar="TIME", help="No trial starts after this long: 90s, 10m, 2h.")
@click.option(
    "--early-stop",
    type=click.Choice([*RULES]),
    help="Stop trials that fall behind. " + " ".join(f"{name}: {text}." for name, text in RULES.items()),
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
    if address is not None and resources["cpus"] is not None:
        raise click.UsageError("--cpus is for a local Ray; a cluster at --address has its own")
    store = ResultsStore(folder, create=True)
    own = own_data_of(data_name, models, steps, {name: resources.pop(name) for name in DATA_OPTIONS})
    grid = load_grid(grid_name, strategies, own)
    try:
        trials, left_out = check_all(grid.trials, lenient=own is not None and not strategies)
    except ValueError as error:
        raise ValueError(f"{grid_name}: {error}") from None
    grid = replace(grid, trials=tuple(trials))
    contents = store.read() if store.path.exists() else Contents()
    final = _done(contents.results, early_stop)
    todo = [trial for trial in grid.trials if trial.trial_id not in final]

    out, talk = _console(), _console(stderr=True)
    _report_damage(contents, talk)
    for note in grid.notes:
        _say(talk, note)
    for left in left_out:
        _say(talk, f"Left out: {left.what}, {left.trials} trials: {left.reason}")
    if dry_run:
        if search != "grid":
            grid = replace(grid, trials=tuple(next(rungs(search, grid.trials))))
        _print_plan(grid, left_out, final, form)
        return
    _say(talk, f"{grid.name}: {grid.question}")
    if todo:
        if search == "grid":
            already = len(grid.trials) - len(todo)
            _say(talk, f"{len(todo)} trials to run, {already} already in {folder}. Starting Ray ...")
        how = {**resources, "address": address, "pack_size": pack, "early_stop": early_stop}
        counts = _run(grid, store, talk, how, search, budget)
    else:
        counts = {}
        _say(talk, f"Nothing to run: all {len(grid.trials)} trials are in {folder}.")
    _print_outcome(grid, store, counts, form, out, talk)
    if any(not status.is_final for status in counts):
        sys.exit(3)


def _run(
    grid: Grid, store: ResultsStore, talk: Console, how: dict[str, Any], search: str, budget: float | None
) -> dict[Status, int]:
    """Run what is missing, rung after rung of a search, and return how many trials ended how."""
    from sweeper.launch import connected  # Ray takes seconds to import: the message comes first

    counts: Counter[Status] = Counter()
    kept = store.path.absolute() / "adapters" if how.pop("keep_weights") else None
    if kept:
        store.mark()  # a worker's folder must not be what makes it look like something else
    climb, rows, until = rungs(search, grid.trials), None, None
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        stack.enter_context(connected(how["address"], how["cpus"]))
        if budget is not None:
            until = time.time() + budget
        while True:
            try:
                trials = climb.send(rows)  # type: ignore[arg-type]  # the first takes nothing
            except StopIteration:
                break
            counts += _run_all(trials, grid, store, talk, {**how, "weights": kept, "until": until}, search)
            rows = _of(store.read().results, trials)
            left = len(trials) - len(rows)
            if left:
                _say(talk, f"Time is up: {left} trials have not started; the same command goes on from there.")
                break
    if kept:
        missing = without_folder(_of(store.read().results, grid.trials), kept)
        _say(talk, f"Weights: {kept}")
        if missing:
            _say(talk, f"{len(missing)} complete trials have none there; `sweeper adapters save {missing[0].trial_id}`")
    return counts


def _run_all(
    trials: Sequence[TrialSpec], grid: Grid, store: ResultsStore, talk: Console, how: dict[str, Any], search: str
) -> Counter[Status]:
    """Run those of these trials that the store does not hold."""
    from sweeper.early_stop import EarlyStop
    from sweeper.launch import launch as run_sweep
    from sweeper.progress import SweepProgress

    stored = store.read().results if store.path.exists() else []
    final = _done(stored, how["early_stop"])
    todo = [trial for trial in trials if trial.trial_id not in final]
    if search != "grid":
        steps = " or ".join(map(str, sorted({trial.train.steps for trial in trials})))
        _say(talk, f"{search}: {len(trials)} trials of {steps} steps, {len(trials) - len(todo)} done before.")
    progress = SweepProgress(len(todo), talk)
    try:
        if todo:
            judge = EarlyStop(how["early_stop"], _of(stored, trials)) if how["early_stop"] else None
            run_sweep(todo, store, progress, grid=grid.name, **{**how, "early_stop": judge})
    except KeyboardInterrupt:
        progress.close()
        done = f"{progress.done} finished trials are in {store.path}"
        _say(talk, f"Interrupted. {done}; the same command goes on from there.")
        raise
    finally:
        progress.close()
    if progress.done < len(todo) and (how["until"] is None or time.time() < how["until"]):
        raise OSError(
            f"only {progress.done} of {len(todo)} trials have a row in {str(store.path)!r}; "
            "the same command runs the missing ones"
        )
    return Counter(progress.counts)


def _print_plan(grid: Grid, left_out: Sequence[LeftOut], final: set[str], form: str) -> None:
    if form == "json":
        trials = [{"trial_id": t.trial_id, "done": t.trial_id in final, **t.to_dict()} for t in grid.trials]
        without = [asdict(left) for left in left_out]
        _print_json({"grid": grid.name, "question": grid.question, "trials": trials, "left_out": without})
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

    rows = _of(store.read().results, grid.trials)
    lines = summarise(rows)
    picture = store.path / "pictures" / f"{grid.name}.png"
    following, why = _next_command(store, lines) if lines else (None, "")
    if lines:
        draw(lines, grid.question, picture)
    if form == "json":
        _print_json(
            {
                "grid": grid.name,
                "question": grid.question,
                "trials": len(grid.trials),
                "ran": sum(counts.values()),
                "statuses": _statuses(rows),
                "lines": as_json(lines),
                "results": str(store.path),
                "picture": str(picture) if lines else None,
                "next": following,
                "similarity": why or None,
            }
        )
        return
    print_summary(lines, out)
    for status, number in _statuses(rows).items():
        if status != Status.COMPLETE:
            example = next(row for row in rows if row.status == status)
            _say(talk, f"{number} {status}, for example {example.trial_id}: {example.error}")
    if lines:
        _say(talk, f"Picture: {picture}")
        _say(talk, f"Next: {following}")
        if why:
            _say(talk, f"({why})")


def _done(rows: Sequence[TrialResult], early_stop: str | None) -> set[str]:
    """Return the ids of trials that need not run; one that was stopped early has not run where nobody stops."""
    return {row.trial_id for row in rows if row.status.is_final and (early_stop or row.status is not Status.PRUNED)}


def _of(rows: Sequence[TrialResult], trials: Sequence[TrialSpec]) -> list[TrialResult]:
    """Return the rows that are of these trials."""
    wanted = {trial.trial_id for trial in trials}
    return [row for row in rows if row.trial_id in wanted]


def _next_command(store: ResultsStore, lines: list[Line]) -> tuple[str, str]:
    """Return the command that asks for advice on the first situation of a sweep, and why it says how similar."""
    from sweeper.summary import SIMILAR_FROM, similarity, transfer

    own = str(store.path) != "results"
    fit = f"advisor fit --results {shlex.quote(str(store.path))}" if own else "advisor fit"
    fitted = shlex.quote(str(store.path / "advisor.json"))
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


@cli.command()
@format_option
def ls(form: str) -> None:
    """List grids, strategies, models and tasks."""
    import dataclasses

    from sweeper import models, strategies, tasks
    from sweeper.grid import load_grid, shipped_grids
    from sweeper.tasks import TASKS

    grids = [load_grid(name) for name in shipped_grids()]
    content: dict[str, dict[str, Any]] = {
        "grids": {g.name: {"question": g.question, "trials": len(g.trials)} for g in grids},
        "strategies": {
            name: {
                "summary": _first_line(s.__doc__),
                "hparams": dataclasses.asdict(s()),  # type: ignore[call-overload]
                "space": {key: list(values) for key, values in s.space.items()},
            }
            for name, s in strategies.STRATEGIES.items()
        }
        | {f"{name}:METHOD": {"summary": _line(make)} for name, make in strategies.FAMILIES.items()},
        "models": {name: {"summary": _line(build)} for name, build in models.MODELS.items()}
        | {f"{name}:NAME": {"summary": _line(make)} for name, make in models.FAMILIES.items()},
        "tasks": {t.name: {"summary": t.summary, "metric": t.metric, "n_train": t.n_train} for t in TASKS.values()}
        | {f"{name}:NAME": {"summary": _line(make)} for name, make in tasks.FAMILIES.items()},
    }
    if form == "json":
        _print_json(content)
        return
    for kind, entries in content.items():
        click.echo(f"{kind}:")
        for name, facts in entries.items():
            text = facts.pop("question", None) or facts.pop("summary")
            facts.pop("space", None)
            rest = {**facts.pop("hparams", {}), **facts}
            extra = f"  [{', '.join(f'{k}={v}' for k, v in rest.items())}]" if rest else ""
            click.echo(f"  {name:20} {text}{extra}")


def _line(builder: Any) -> str:
    """Return what a function returns, as the first line of its docstring has it."""
    text = _first_line(builder.__doc__).removeprefix("Return ")
    return text[:1].upper() + text[1:]


def _first_line(text: str | None) -> str:
    return text.strip().splitlines()[0] if text else ""


@cli.command()
@click.argument("trial_id", required=False)
@results_option
@click.option("--grid", "grid_name", metavar="NAME|FILE.toml", help="Only the trials of this grid.")
@click.option("--strategy", help="Only this strategy.")
@click.option("--model", help="Only this model.")
@click.option("--task", help="Only this task.")
@click.option("--seed", type=int, help="Only this seed.")
@click.option("--status", type=click.Choice([s.value for s in Status]), help="Only trials that ended so.")
@click.option(
    "--summary", is_flag=True, help="Mean and spread over seeds instead of rows, learning rate chosen on valid."
)
@click.option(
    "--per-class", is_flag=True, help="Precision, recall, F1 and confusions by class, one trial of each strategy."
)
@click.option("--samples", is_flag=True, help="What language models wrote, one trial of each strategy.")
@format_option
def show(
    trial_id: str | None,
    folder: str,
    grid_name: str | None,
    summary: bool,
    per_class: bool,
    samples: bool,
    form: str,
    **filters: Any,
) -> None:
    """Show rows of the store; with TRIAL_ID, or the beginning of one, that row whole.

    \b
    sweeper show --strategy lora --seed 0
    sweeper show --summary --grid lora_ranks
    sweeper show --per-class --task digits_weak_class
    sweeper show 3f9a
    """
    from sweeper.summary import summarise
    from sweeper.table import as_json, print_rows, print_summary

    contents = read_store(folder)
    _report_damage(contents, _console(stderr=True))
    if summary + per_class + samples > 1:
        raise click.UsageError("--summary, --per-class and --samples are different tables: ask for one")
    if trial_id is not None:
        if (
            summary
            or per_class
            or samples
            or grid_name is not None
            or any(value is not None for value in filters.values())
        ):
            raise click.UsageError("TRIAL_ID names one row: leave the filters out")
        found = [result for result in contents.results if result.trial_id.startswith(trial_id)]
        if len(found) != 1:
            what = "no trial whose id begins" if not found else f"{len(found)} trials whose ids begin"
            raise ValueError(f"{what} with {trial_id!r} in {folder!r}. `sweeper show` lists them")
        _print_json(found[0].to_dict())
        return
    rows = _filtered(contents.results, filters)
    if grid_name is not None:
        from sweeper.grid import load_grid

        rows = _of(rows, load_grid(grid_name).trials)
    rows.sort(key=lambda row: (row.spec.task, row.spec.model, row.spec.n_train, row.spec.strategy, str(row.spec)))
    if per_class or samples:
        from sweeper import per_class as classes
        from sweeper import samples as texts

        trials = classes.typical_trials(summarise(rows))
        if form == "json":
            _print_json((texts if samples else classes).as_json(trials))
        else:
            (texts.print_samples if samples else classes.print_per_class)(trials, _console())
        if not trials:
            click.echo(f"no complete trial among {len(rows)} in {folder}", err=True)
    elif summary:
        lines = summarise(rows)
        _print_json(as_json(lines)) if form == "json" else print_summary(lines, _console())
        if not lines:
            click.echo(f"no complete trial among {len(rows)} in {folder}", err=True)
    elif form == "json":
        _print_json([row.to_dict() for row in rows])
    else:
        print_rows(rows, _console())
        click.echo(f"{len(rows)} of {len(contents.results)} trials in {folder}", err=True)


def _filtered(results: list[TrialResult], filters: dict[str, Any]) -> list[TrialResult]:
    """Return the rows that fit all filters that are set; a value that no row has is a mistake."""
    for name, value in filters.items():
        if value is None:
            continue
        known = {result.status.value if name == "status" else getattr(result.spec, name) for result in results}
        if value not in known and name != "status":
            from sweeper.suggest import no_such

            raise no_such(f"{name} in this store", value, map(str, known))
        results = [r for r in results if value == (r.status.value if name == "status" else getattr(r.spec, name))]
    return results


@cli.command()
@click.argument("file", type=click.Path(dir_okay=False))
@results_option
def export(file: str, folder: str) -> None:
    """Write the store as one table to FILE.csv or FILE.parquet.

    \b
    sweeper export results.csv
    """
    from sweeper.results import to_frame

    path = Path(file)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"FILE must end in .csv or .parquet, got {file!r}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r} to write {path.name!r} into")
    contents = read_store(folder)
    _report_damage(contents, _console(stderr=True))
    frame = to_frame(contents.results)
    if "curve" in frame:
        frame["curve"] = frame["curve"].map(json.dumps)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    click.echo(f"{len(frame)} trials in {path}", err=True)


def _say(talk: Console, text: str) -> None:
    """Print a line of talk as it is: names from the user are no markup."""
    talk.print(text, markup=False, highlight=False, soft_wrap=True)


def _report_damage(contents: Contents, talk: Console) -> None:
    for damage in contents.damage:
        _say(talk, f"Warning: {damage}")


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # In a pipe a table is as wide as it needs to be.
    return Console(stderr=stderr, width=None if stream is not None and stream.isatty() else 200)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def main() -> None:
    """Run the command and turn errors into one line and an exit code."""
    run(cli, "sweeper")
