"""A launch from what is asked for to what came of it: which trials, round after round of a search."""

from __future__ import annotations

import contextlib
import logging
import re
import time
import warnings
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.launches import forget, recorded
from sweeper.loggers import Logged, Sink, open_sink, split
from sweeper.outcome import Outcome, rows_of
from sweeper.printing import console, report_damage, say, time_in_words
from sweeper.request import ARGUMENTS, Request, as_request, flag, name_of
from sweeper.results import ResultsStore
from sweeper.search import Situation, rungs
from sweeper.spec import Status, TrialResult, TrialSpec
from sweeper.standing import STOPPED, Reporter, StoppedError, TimeIsUpError, reporting
from sweeper.sweep import done, missing
from sweeper.upkeep import settle

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.grid import Grid
    from sweeper.own_data import OwnData
    from sweeper.trial import LeftOut

Climbing = Generator[list[TrialSpec], Sequence[TrialResult], None]


def launch(
    grid: str | Path | Mapping[str, Any] | Grid,
    results: str | Path = "results",
    *,
    strategies: str | Sequence[str] = (),
    data: str | Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    work: str | None = None,
    encoding: str | None = None,
    image_size: int | None = None,
    models: str | Sequence[str] = (),
    steps: int | None = None,
    dry_run: bool = False,
    cpus: int | None = None,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
    pack: int | None = None,
    search: str = "grid",
    settings: int | None = None,
    objectives: str | Sequence[str] = (),
    budget: float | str | None = None,
    early_stop: str | None = None,
    trial_timeout: float | str | None = None,
    stop_after: float | str | None = None,
    live: bool = False,
    keep_weights: bool = False,
    log: str | Sequence[str] = (),
    address: str | None = None,
    quiet: bool = False,
) -> Outcome:
    """Run the trials of a grid that the store does not hold yet, as `sweeper launch` does.

    What a launch finished before it was interrupted is in the store; the same call goes on from there. A Ray that
    already runs in this process is used, and left running.

    Args:
        grid: A shipped grid's name, a .toml file, what such a file holds as a dict (with a "name", if it is to have
            one), or a `sweeper.Grid`.
        results: The store: a folder, or s3://bucket/folder.
        strategies: Only these, also ones that the grid lacks, such as "peft:METHOD".
        data: Your own rows, instead of the grid's tasks: a file, a folder of images, hf:NAME.
        text_column: Of own rows, as are the next five; what is left out is found out.
        label_column: The column to be predicted.
        group_column: Rows of one value stay on one side of a split.
        work: "classification", "regression", "tagging" or "generation".
        encoding: Of a text file.
        image_size: Side of images, in pixels.
        models: For own rows, instead of the grid's.
        steps: For own rows; if ``None``, what suits them.
        dry_run: Run nothing; `Outcome.grid` has the trials and `Outcome.done` those that the store holds.
        cpus: CPUs for the local Ray; all if ``None``.
        gpus_per_trial: GPUs for each pack, fractions allowed; if ``None``, 1 if there are any.
        max_concurrent: Packs at once; as many as fit if ``None``.
        pack: Trials that train together at most; if ``None``, what is faster, measured.
        search: "grid" runs every trial; `sweeper launch --help` says what the others leave out.
        settings: For a search that chooses: settings to try on each model, task and number of rows.
        objectives: What a search is after: "score", "trainable-params", "seconds", "memory".
        budget: No trial starts after this long: seconds, or "90s", "10m", "2h".
        early_stop: Which rule stops trials that fall behind; no trial stops if ``None``.
        trial_timeout: What takes longer a trial is ended, and the others go on.
        stop_after: After this long it ends, whatever trains; the same call goes on from there.
        live: Show it in a browser while it runs, on this machine alone; the link is said on stderr.
        keep_weights: Save what each trial learned, in RESULTS/adapters.
        log: Trackers that are told of each row, "mlflow", "wandb" or "tensorboard"; "mlflow=URI" and "wandb=FOLDER" say
            where.
        address: Ray cluster, "auto" or "host:port"; a local Ray if ``None``.
        quiet: Say nothing on stderr.

    Raises:
        ValueError: something in the request or in the grid is wrong; nothing has run.
        OSError: the store takes no rows, or there is no cluster at ``address``. What the store holds is intact.
        KeyboardInterrupt: what was finished is in the store, and a local Ray has ended.
    """
    asked = {**locals()}
    try:
        return carry_out(as_request(asked), quiet)
    except ValueError as error:
        # What both share speaks of the command's options.
        error.args = tuple(_in_python(one) if isinstance(one, str) else one for one in error.args)
        raise


def carry_out(asked: Request, quiet: bool = False) -> Outcome:
    """Do what is asked, and return what came of it; what is going on is said on stderr.

    Raises:
        ValueError: as `launch`, in the words of the command.
        OSError: as `launch`.
    """
    talk = console(stderr=True, quiet=quiet)
    store = ResultsStore(asked.results, create=True)
    grid, left_out = _grid(asked, talk)
    if not asked.dry_run:
        settle(store)
    contents = store.read()
    final = done(contents.results, asked.early_stop)
    todo = [trial for trial in grid.trials if trial.trial_id not in final]
    report_damage(contents, talk)
    for note in grid.notes:
        say(talk, note)
    for left in left_out:
        say(talk, f"Left out: {left.what}, {left.trials} trials: {left.reason}")
    advice = _advice(grid.trials) if asked.search == "advisor" else None
    climb = partial(rungs, asked.search, grid.trials, asked.settings, asked.objectives or ("score",), advice)
    if asked.dry_run:
        if asked.search != "grid":
            grid = replace(grid, trials=tuple(next(climb())))
        return Outcome(grid, store, rows_of(contents.results, grid.trials), left_out, {}, frozenset(final))
    say(talk, f"{grid.name}: {grid.question}")
    counts: Mapping[Status, int] = {}
    if todo:
        if asked.search == "grid":
            already = len(grid.trials) - len(todo)
            say(talk, f"{len(todo)} trials to run, {already} already in {store.name}. Starting Ray ...")
        counts = _run(asked, grid, climb(), store, talk)
    else:
        forget(store, asked.record())
        say(talk, f"Nothing to run: all {len(grid.trials)} trials are in {store.name}.")
    rows = rows_of(store.read().results, grid.trials)
    return Outcome(grid, store, rows, left_out, counts, frozenset(done(rows, asked.early_stop)))


def _grid(asked: Request, talk: Console) -> tuple[Grid, list[LeftOut]]:
    """Return the grid with what of it makes sense here, and what does not."""
    from sweeper.grid import Grid, load_grid
    from sweeper.progress import Bar
    from sweeper.trial import check_all

    own = _own_data(asked)
    if isinstance(asked.grid, Grid):
        if own is not None or asked.strategies:
            raise ValueError(
                f"--strategy and --data are for a grid that is a name, a file or a dict, got {asked.grid.name!r}"
            )
        grid = asked.grid
    else:
        grid = load_grid(asked.grid, asked.strategies, own)
    try:
        with Bar("trials checked", talk) as bar:
            trials, left_out = check_all(grid.trials, own is not None and not asked.strategies, bar.tell)
    except ValueError as error:
        raise ValueError(f"{name_of(asked.grid)}: {error}") from None
    return replace(grid, trials=tuple(trials)), left_out


def _own_data(asked: Request) -> OwnData | None:
    """Return what a launch on own data replaces in a grid; ``None`` without such data."""
    from sweeper.own_data import own_data
    from sweeper.tasks.columns import Asked

    columns = {field.name: getattr(asked, field.name) for field in fields(Asked) if field.name != "data"}
    if asked.data is None:
        for name, value in {"model": asked.models, "steps": asked.steps, **columns}.items():
            if value not in (None, ()):
                raise ValueError(f"{flag(name)} is for --data DATA; a grid names its own")
        return None
    return own_data(Asked(asked.data, **columns), asked.models, asked.steps)


def _in_python(text: str) -> str:
    """Return a text with the command's options as arguments of a function; commands in it stay as they are."""
    parts = re.split(r"(`[^`]*`)", text)
    for number in range(0, len(parts), 2):
        parts[number] = re.sub(
            r"--([a-z][a-z-]*)", lambda found: ARGUMENTS.get(found[1], found[1]).replace("-", "_"), parts[number]
        )
    return "".join(parts)


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


def _run(asked: Request, grid: Grid, climb: Climbing, store: ResultsStore, talk: Console) -> Counter[Status]:
    """Run what is missing, rung after rung of a search, and return how many trials ended how."""
    from sweeper.live import shown_live

    # In a notebook Ray would ask for a package that it needs for what is not shown here.
    logging.getLogger("ray.widgets").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        from sweeper.tune import connected, gpus_for, runs_already  # which takes seconds: the message comes first

    if runs_already() and (asked.cpus is not None or asked.address is not None):
        option = "--cpus" if asked.address is None else "--address"
        raise ValueError(
            f"{option} is for a Ray yet to be started, and one runs in this process: leave it out, or "
            "end that with ray.shutdown()"
        )
    counts: Counter[Status] = Counter()
    kept = store.path.absolute() / "adapters" if asked.keep_weights else None
    rows, until, last, began = None, None, None, time.time()
    sinks = {name: open_sink(name, where) for name, where in split(asked.log).items()}
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        stack.enter_context(connected(asked.address, asked.cpus))
        gpus_for(asked.gpus_per_trial)  # before anything is written
        store.mark()  # a worker's folder must not be what makes it look like something else
        launched, end = stack.enter_context(recorded(store, asked.record()))
        if asked.budget is not None:
            until = time.time() + asked.budget
        if asked.stop_after is not None:
            last = began + asked.stop_after
        if asked.live:
            stack.enter_context(shown_live(store, talk))
        reporter = stack.enter_context(reporting(store, launched, grid.name, grid.question, last))
        while True:
            try:
                trials = climb.send(rows)  # type: ignore[arg-type]  # the first takes nothing
            except StopIteration:
                if all(status.is_final for status in counts):
                    end()
                break
            try:
                counts += _run_all(asked, grid, trials, store, talk, sinks, kept, until, reporter)
            except TimeIsUpError:
                say(talk, f"Stopped after {time_in_words(time.time() - began)}; `sweeper resume` goes on from there.")
                reporter.ended = STOPPED
                break
            rows = rows_of(store.read().results, trials)
            left = len(trials) - len(rows)
            if left:
                say(talk, f"Time is up: {left} trials have not started; the same command goes on from there.")
                reporter.ended = STOPPED
                break
    if kept:
        complete = [row for row in rows_of(store.read().results, grid.trials) if row.status is Status.COMPLETE]
        without = [row for row in complete if not (kept / row.trial_id).is_dir()]
        say(talk, f"Weights: {kept}")
        if without:
            say(talk, f"{len(without)} complete trials have none there; `sweeper adapters save {without[0].trial_id}`")
    return counts


def _run_all(
    asked: Request,
    grid: Grid,
    trials: Sequence[TrialSpec],
    store: ResultsStore,
    talk: Console,
    sinks: Mapping[str, Sink],
    kept: Path | None,
    until: float | None,
    reporter: Reporter,
) -> Counter[Status]:
    """Run those of these trials that the store does not hold."""
    from sweeper.cache import cache_folder
    from sweeper.early_stop import EarlyStop
    from sweeper.progress import SweepProgress
    from sweeper.tune import launch as run_sweep

    stored = store.read().results
    final = done(stored, asked.early_stop)
    todo = [trial for trial in trials if trial.trial_id not in final]
    if asked.search != "grid":
        steps = " or ".join(map(str, sorted({trial.train.steps for trial in trials})))
        say(talk, f"{asked.search}: {len(trials)} trials of {steps} steps, {len(trials) - len(todo)} done before.")
    reporter.round(trials, rows_of(stored, trials), len(todo))
    progress = SweepProgress(len(todo), talk, reporter=reporter)
    try:
        if todo and (until is None or time.time() < until):
            # The last round of a search compares means over seeds: without its worst seeds a mean would flatter.
            last = asked.search != "grid" and len({trial.seed for trial in todo}) > 1
            judge = EarlyStop(asked.early_stop, rows_of(stored, trials)) if asked.early_stop and not last else None
            run_sweep(
                todo,
                store,
                Logged(progress, sinks, partial(say, talk)) if sinks else progress,
                grid=grid.name,
                cpus=asked.cpus,
                gpus_per_trial=asked.gpus_per_trial,
                max_concurrent=asked.max_concurrent,
                address=asked.address,
                pack_size=asked.pack,
                weights=kept,
                checkpoints=(cache_folder() if store.is_remote else store.path.absolute()) / "checkpoints",
                until=until,
                early_stop=judge,
                time_limit=asked.trial_timeout,
                beat=progress.beat,
            )
    except KeyboardInterrupt as error:
        progress.close()
        stored_now = f"{progress.done} finished trials are in {store.name}"
        if isinstance(error, StoppedError):
            say(talk, f"Stopped by {error}. {stored_now}; `sweeper resume` goes on from there.")
        elif not isinstance(error, TimeIsUpError):
            say(talk, f"Interrupted. {stored_now}; the same command goes on from there.")
        raise
    finally:
        progress.close()
    # What counts is what the disk holds, not what this process believes to have written.
    without = missing(store, todo) if todo else []
    if without and (len(without) > len(todo) - progress.done or until is None or time.time() < until):
        raise OSError(
            f"only {len(todo) - len(without)} of {len(todo)} trials have a row in {store.name!r}; "
            "run the same command again for the missing ones"
        )
    return Counter(progress.counts)
