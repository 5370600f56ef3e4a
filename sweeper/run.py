"""A launch from what is asked for to what came of it: which trials, round after round of a search."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.early_stop import RULES
from sweeper.launches import forget, recorded
from sweeper.objects import is_url
from sweeper.outcome import Outcome, rows_of
from sweeper.printing import console, report_damage, say, seconds, time_in_words
from sweeper.results import ResultsStore
from sweeper.search import OBJECTIVES, SEARCHES, Situation, rungs
from sweeper.spec import Status, TrialResult, TrialSpec
from sweeper.standing import STOPPED, Reporter, StoppedError, TimeIsUpError, reporting
from sweeper.suggest import no_such
from sweeper.sweep import done, missing
from sweeper.upkeep import settle

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.grid import Grid
    from sweeper.own_data import OwnData
    from sweeper.trial import LeftOut

Climbing = Generator[list[TrialSpec], Sequence[TrialResult], None]

RECORDED = {"grid": "grid_name", "data": "data_name", "trial_timeout": "time_limit"}
"""Fields of `Request` -> what a store's records of launches, and the command, call them."""


@dataclass(frozen=True)
class Request:
    """What a launch is asked for: the options of the command. `launch` says what each means."""

    grid: str | Path | Mapping[str, Any] | Grid
    results: str
    strategies: tuple[str, ...]
    data: str | None
    text_column: str | None
    label_column: str | None
    group_column: str | None
    work: str | None
    encoding: str | None
    image_size: int | None
    models: tuple[str, ...]
    steps: int | None
    dry_run: bool
    cpus: int | None
    gpus_per_trial: float | None
    max_concurrent: int | None
    pack: int | None
    search: str
    settings: int | None
    objectives: tuple[str, ...]
    budget: float | None
    early_stop: str | None
    trial_timeout: float | None
    stop_after: float | None
    live: bool
    keep_weights: bool
    address: str | None

    def __post_init__(self) -> None:
        """Find what is wrong with the request before anything runs or is written.

        Raises:
            ValueError: a value is out of range, or two options do not go together.
        """
        for name in ("steps", "cpus", "max_concurrent", "pack", "settings"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{_flag(name)} must be a whole number of at least 1, got {value!r}")
        for name, known in (("search", ["grid", *SEARCHES]), ("early_stop", [None, *RULES])):
            if getattr(self, name) not in known:
                raise no_such(name.replace("_", " "), getattr(self, name), [one for one in known if one])
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise no_such("objective", name, OBJECTIVES)
        if (self.address or "").startswith("ray://"):
            raise ValueError(
                f"--address {self.address} is Ray Client's, with which the store would be written on the cluster's "
                "head: `sweeper submit --address http://HEAD:8265` runs the same there, or name the head's own port, "
                "HEAD:6379"
            )
        if self.address is not None and self.cpus is not None:
            raise ValueError("--cpus is for a local Ray; a cluster at --address has its own")
        share = self.gpus_per_trial
        if share is not None and not (0 <= share <= 1 or (share > 0 and float(share).is_integer())):
            raise ValueError(f"--gpus-per-trial must be a share of one GPU or a whole number, got {share:g}")
        if self.settings is not None and not (self.search in SEARCHES and SEARCHES[self.search].chooses):
            choosing = ", ".join(name for name, entry in SEARCHES.items() if entry.chooses)
            raise ValueError(f"--settings is for a search that chooses ({choosing}), and --search is {self.search}")
        if self.keep_weights and is_url(self.results):
            raise ValueError(f"--keep-weights needs a folder, and {self.results} is object storage")
        if self.objectives and self.search == "grid":
            raise ValueError("--objective is for a search, and --search grid runs every trial")

    def record(self) -> dict[str, Any]:
        """Return what decides what runs, under the names that `sweeper resume` gives to the command.

        A grid that is in no file is named <NAME>.
        """
        kept = {name: getattr(self, name) for name in RECORDED_FIELDS}
        if not isinstance(self.grid, str):
            kept["grid"] = str(self.grid) if isinstance(self.grid, Path) else f"<{_name(self.grid)}>"
        return {RECORDED.get(name, name): value for name, value in kept.items()}


ARGUMENTS = {"strategy": "strategies", "model": "models", "objective": "objectives"}
"""Options of the command that `launch` calls otherwise."""
RECORDED_FIELDS = [field.name for field in fields(Request) if field.name != "results"]


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


def as_request(options: Mapping[str, Any]) -> Request:
    """Return the request that options make, a single name for a list of one, times in seconds.

    Raises:
        ValueError: something in them is wrong.
    """
    asked = {field.name: options[field.name] for field in fields(Request)}
    for name in ("strategies", "models", "objectives"):
        asked[name] = (asked[name],) if isinstance(asked[name], str) else tuple(asked[name])
    for name in ("budget", "trial_timeout", "stop_after"):
        asked[name] = None if asked[name] is None else seconds(asked[name])
    for name in ("results", "data"):
        asked[name] = None if asked[name] is None else str(asked[name])
    return Request(**asked)


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
        raise ValueError(f"{_name(asked.grid)}: {error}") from None
    return replace(grid, trials=tuple(trials)), left_out


def _own_data(asked: Request) -> OwnData | None:
    """Return what a launch on own data replaces in a grid; ``None`` without such data."""
    from sweeper.own_data import own_data
    from sweeper.tasks.columns import Asked

    columns = {field.name: getattr(asked, field.name) for field in fields(Asked) if field.name != "data"}
    if asked.data is None:
        for name, value in {"model": asked.models, "steps": asked.steps, **columns}.items():
            if value not in (None, ()):
                raise ValueError(f"{_flag(name)} is for --data DATA; a grid names its own")
        return None
    return own_data(Asked(asked.data, **columns), asked.models, asked.steps)


def _name(grid: str | Path | Mapping[str, Any] | Grid) -> str:
    if isinstance(grid, Mapping):
        return str(grid.get("name", "grid"))
    return str(grid) if isinstance(grid, str | Path) else grid.name


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


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
    from sweeper.tune import connected, gpus_for  # Ray takes seconds to import: the message comes first

    counts: Counter[Status] = Counter()
    kept = store.path.absolute() / "adapters" if asked.keep_weights else None
    rows, until, last, began = None, None, None, time.time()
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
                counts += _run_all(asked, grid, trials, store, talk, kept, until, reporter)
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
        if todo:
            # The last round of a search compares means over seeds: without its worst seeds a mean would flatter.
            last = asked.search != "grid" and len({trial.seed for trial in todo}) > 1
            judge = EarlyStop(asked.early_stop, rows_of(stored, trials)) if asked.early_stop and not last else None
            run_sweep(
                todo,
                store,
                progress,
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
            "the same command runs the missing ones"
        )
    return Counter(progress.counts)
