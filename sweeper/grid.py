"""Grids: a question in a TOML file, and the trials that answer it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.disk import read_small
from sweeper.models import find_model
from sweeper.own_data import OwnData, of_table
from sweeper.spec import SEEDS, TrainArgs, TrialSpec
from sweeper.strategies import find_strategy, hparams_of
from sweeper.suggest import no_such
from sweeper.tasks import find_task

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "grids"

KEYS = ("question", "models", "tasks", "n_train", "seeds", "strategies", "train", "data")
SPACE = "space"
RANGE_KEYS: dict[str, Any] = {"low": None, "high": None, "log": False, "points": 8}
MOST_POINTS = 1000
MOST_TRIALS = 100_000
MOST_BYTES = 2**20
TRAIN_KEYS = tuple(field.name for field in dataclasses.fields(TrainArgs))


@dataclass(frozen=True)
class Grid:
    """A question and its trials, baseline included.

    Attributes:
        notes: On the user's own data: what was found and chosen.
    """

    name: str
    question: str
    trials: tuple[TrialSpec, ...]
    notes: tuple[str, ...] = ()


def shipped_grids() -> dict[str, Path]:
    """Return the grids that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def load_grid(
    name_or_path: str | Path | Mapping[str, Any], strategies: Sequence[str] = (), own: OwnData | None = None
) -> Grid:
    """Return a shipped grid by its name, or one from a TOML file or from what such a file holds.

    The rows that a table [data] in it names are prepared.

    Args:
        name_or_path: A shipped grid's name, a path that ends in .toml, or a dict; "name" in it is the grid's.
        strategies: Only these; one that the grid does not name comes in with its defaults.
        own: A user's data and models, instead of what the grid names.

    Raises:
        ValueError: there is no such grid, or its file has an unknown or duplicate key or a bad value;
            the message names the file, the key and what there is.
    """
    if isinstance(name_or_path, Mapping):
        content = {key: _plain(value) for key, value in name_or_path.items()}
        name = str(content.pop("name", "grid"))
        with _naming(name):
            return _load(name, content, Path(), strategies, own)
    shipped, name_or_path = shipped_grids(), str(name_or_path)
    path = shipped.get(name_or_path)
    if path is None:
        path = Path(name_or_path)
        if path.suffix != ".toml":
            raise no_such("grid", name_or_path, shipped, " (a file of your own ends in .toml)")
        if not path.exists():
            raise ValueError(f"no grid file {name_or_path!r}. Shipped grids: {', '.join(sorted(shipped))}")
    log.debug("grid %s", path)
    with _naming(path.name if name_or_path in shipped else name_or_path):
        content = tomllib.loads(read_small(path, MOST_BYTES).decode("utf-8"))
        return _load(path.stem, content, path.parent, strategies, own)


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Have what is wrong with a grid say in which."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{where}: {error.strerror}") from None
    # TOML's own errors are ValueErrors, a duplicate key among them; the others are values beyond all measure.
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from None


def _load(name: str, content: dict[str, Any], folder: Path, strategies: Sequence[str], own: OwnData | None) -> Grid:
    content = _only(content, strategies) if strategies else content
    if own is None and "data" in content:
        own = of_table(content["data"], content.get("models", []), folder)
    return parse_grid(name, content) if own is None else _on_own_data(name, content, own)


def _plain(value: Any) -> Any:
    """Return what Python code may hold as TOML would have it: tuples, ranges and arrays as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(one) for one in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else value


def _only(content: Mapping[str, Any], strategies: Sequence[str]) -> dict[str, Any]:
    """Return a grid's content with these strategies alone."""
    entries = content.get("strategies", [])
    found = [entry for entry in entries if isinstance(entry, dict) and entry.get("name") in strategies]
    new = [{"name": name} for name in strategies if name not in {entry["name"] for entry in found}]
    return {**content, "strategies": [*found, *new]}


def _on_own_data(name: str, content: Mapping[str, Any], own: OwnData) -> Grid:
    """Return a grid on a user's own data."""
    grids = [parse_grid(name, for_one_model) for for_one_model in own.contents(content)]
    data = own.prepared.report["data"]
    question = grids[0].question if "data" in content else f"What does best on {data}, of the grid {name}?"
    trials = tuple(trial for grid in grids for trial in grid.trials)
    full_name = name if "data" in content else f"{name}-{own.prepared.task.partition(':')[2]}"
    return Grid(full_name, question, trials, own.notes)


def parse_grid(name: str, content: Mapping[str, Any]) -> Grid:
    """Return the grid that a parsed TOML file describes: a list is swept, a scalar is held.

    Raises:
        ValueError: something in it is unknown, missing or out of range.
    """
    for key in content:
        if key not in KEYS:
            raise no_such("key", key, KEYS, " in a grid")
    missing = [key for key in ("question", "models", "tasks", "strategies") if key not in content]
    if missing:
        raise ValueError(f"the grid has no {' and no '.join(missing)}. Example: {SHIPPED / 'smoke.toml'}")

    if not isinstance(content["question"], str) or not content["question"].strip():
        raise ValueError(f"question must be a text, got {content['question']!r}")
    models = _names("model", content["models"])
    for model in models:
        find_model(model)
    tasks = _names("task", content["tasks"])
    for task in tasks:
        find_task(task)
    seeds = _whole_numbers("seeds", content.get("seeds", [0, 1, 2]), 0)
    sizes = _whole_numbers("n_train", content["n_train"], 1) if "n_train" in content else []
    train = content.get("train", {})
    if not isinstance(train, dict):
        raise ValueError(f"train must be a table, got {train!r}")
    own_train = {key: value for key, value in train.items() if isinstance(value, dict) and key not in TRAIN_KEYS}
    train = {key: value for key, value in train.items() if key not in own_train}
    for key in own_train:
        if key not in tasks:
            raise no_such("task", key, tasks, " of this grid for [train.TASK]")
    for key in itertools.chain(train, *own_train.values()):
        if key not in TRAIN_KEYS:
            raise no_such("key", key, TRAIN_KEYS, " in [train]")
    entries = content["strategies"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not entries:
        raise ValueError(
            f"strategies must be a list of tables, [[strategies]] with a name each, got {str(entries)[:80]!r}"
        )

    trials = []
    for model, task, entry in itertools.product(models, tasks, entries):
        for size in sizes or [find_task(task).n_train]:
            for strategy, hparams, args in _settings(entry, {**train, **own_train.get(task, {})}):
                trials += [TrialSpec(model, task, size, strategy, hparams, args, seed) for seed in seeds]
                _check_number(len(trials))
    unique = {trial.trial_id: trial for trial in trials}
    return Grid(name, str(content["question"]), tuple(unique.values()))


def _settings(entry: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], TrainArgs]]:
    """Yield every combination of one strategy's hyperparameters and training arguments, defaults filled in.

    A training argument in the strategy's own table replaces the one of [train]. "space" stands for what the
    strategy's own search space has, a table { low, high, log, points } for points of a range.
    """
    entry = dict(entry)
    if not isinstance(entry.get("name"), str):
        raise ValueError(f"each of [[strategies]] needs a name, got {entry.get('name')!r}")
    name = entry.pop("name")
    strategy = find_strategy(name)
    own = [field.name for field in dataclasses.fields(strategy)]  # type: ignore[arg-type]
    for key in entry:
        if key not in own and key not in TRAIN_KEYS:
            raise no_such("hyperparameter", key, [*own, *TRAIN_KEYS], f" in the strategy {name}")
    swept = {**train, **entry}
    for key, value in swept.items():
        if value == SPACE:
            if key not in strategy.space:
                raise no_such("hyperparameter", key, strategy.space, f" in the search space of {name}")
            swept[key] = list(strategy.space[key])
        if value == []:
            raise ValueError(f"{key} of the strategy {name} is an empty list: nothing would run, give a value")
    lists = [_values(key, value) for key, value in swept.items()]
    _check_number(math.prod(map(len, lists)))
    for values in itertools.product(*lists):
        setting = dict(zip(swept, values, strict=True))
        args = TrainArgs(**{key: setting.pop(key) for key in TRAIN_KEYS if key in setting})
        yield name, hparams_of(strategy(**setting)), args


def _check_number(trials: int) -> None:
    if trials > MOST_TRIALS:
        raise ValueError(
            f"the grid has {trials:,} trials or more, and more than {MOST_TRIALS:,} trials is a mistyped list, or "
            "several grids' work: mend it, or make several grids"
        )


def _values(key: str, value: Any) -> Sequence[Any]:
    """Return what a setting may be: a list as it is, and evenly spaced points of a range."""
    if not isinstance(value, dict):
        return _as_list(value)
    for name in value:
        if name not in RANGE_KEYS:
            raise no_such("key", name, RANGE_KEYS, f" in the range {key}")
    low, high, log, points = (value.get(name, other) for name, other in RANGE_KEYS.items())
    if not (_is_number(low) and _is_number(high) and low < high) or (log and low <= 0) or not isinstance(log, bool):
        raise ValueError(f"the range {key} needs low < high, both above 0 for log = true, got {value!r}")
    if isinstance(points, bool) or not isinstance(points, int) or not 2 <= points <= MOST_POINTS:
        raise ValueError(f"points of the range {key} must be a whole number from 2 to {MOST_POINTS}, got {points!r}")
    shares = [k / (points - 1) for k in range(points)]
    spaced = [low * (high / low) ** share if log else low + (high - low) * share for share in shares]
    if isinstance(low, int) and isinstance(high, int):
        return list(dict.fromkeys(round(number) for number in spaced))
    return [float(f"{number:.3g}") for number in spaced]  # readable, and the same on every machine


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _names(kind: str, value: Any) -> Sequence[str]:
    names = _as_list(value)
    if not names:
        raise ValueError(f"{kind}s is an empty list: name one (`sweeper ls`)")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"{kind}s must hold names, got {name!r}")
    return names


def _whole_numbers(key: str, value: Any, least: int) -> list[int]:
    numbers = _as_list(value)
    if not numbers:
        raise ValueError(f"{key} is an empty list: nothing would run, give a number")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number < SEEDS:
            raise ValueError(f"{key} must hold whole numbers of at least {least}, got {number!r}")
    return list(numbers)
