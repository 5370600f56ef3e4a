"""Grids: a question in a TOML file, and the trials that answer it."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.models import MODELS
from sweeper.spec import TrainArgs, TrialSpec
from sweeper.strategies import STRATEGIES, hparams_of
from sweeper.suggest import no_such
from sweeper.tasks import TASKS

SHIPPED = Path(__file__).parent / "grids"

KEYS = ("question", "models", "tasks", "n_train", "seeds", "strategies", "train")
TRAIN_KEYS = tuple(field.name for field in dataclasses.fields(TrainArgs))


@dataclass(frozen=True)
class Grid:
    """A question and its trials, baseline included."""

    name: str
    question: str
    trials: tuple[TrialSpec, ...]


def shipped_grids() -> dict[str, Path]:
    """Return the grids that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def load_grid(name_or_path: str) -> Grid:
    """Return a shipped grid by its name, or one from a TOML file.

    Raises:
        ValueError: there is no such grid, or its file has an unknown or duplicate key or a bad value;
            the message names the file, the key and what there is.
    """
    shipped = shipped_grids()
    path = shipped.get(name_or_path)
    if path is None:
        path = Path(name_or_path)
        if path.suffix != ".toml":
            raise no_such("grid", name_or_path, shipped, " (a file of your own ends in .toml)")
        if not path.is_file():
            raise ValueError(f"no grid file {name_or_path!r}. Shipped grids: {', '.join(sorted(shipped))}")
    try:
        return parse_grid(path.stem, tomllib.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:  # TOML's own errors are ValueErrors: a duplicate key is one
        raise ValueError(f"{path.name if name_or_path in shipped else name_or_path}: {error}") from None


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

    models = _names("model", content["models"], MODELS)
    tasks = _names("task", content["tasks"], TASKS)
    seeds = [_whole("seeds", seed, 0) for seed in _as_list(content.get("seeds", [0, 1, 2]))]
    sizes = [_whole("n_train", size, 1) for size in _as_list(content.get("n_train", []))]
    train = content.get("train", {})
    for key in train:
        if key not in TRAIN_KEYS:
            raise no_such("key", key, TRAIN_KEYS, " in [train]")
    entries = content["strategies"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not entries:
        raise ValueError("strategies must be a list of tables: [[strategies]] with a name each")

    trials = []
    for model, task, entry in itertools.product(models, tasks, entries):
        for size in sizes or [TASKS[task].n_train]:
            for strategy, hparams, args in _settings(entry, train):
                trials += [TrialSpec(model, task, size, strategy, hparams, args, seed) for seed in seeds]
    unique = {trial.trial_id: trial for trial in trials}
    return Grid(name, str(content["question"]), tuple(unique.values()))


def _settings(entry: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], TrainArgs]]:
    """Yield every combination of one strategy's hyperparameters and training arguments, defaults filled in.

    A training argument in the strategy's own table replaces the one of [train].
    """
    entry = dict(entry)
    name = entry.pop("name", None)
    if name not in STRATEGIES:
        raise no_such("strategy", name, STRATEGIES)
    strategy = STRATEGIES[name]
    own = [field.name for field in dataclasses.fields(strategy)]  # type: ignore[arg-type]
    for key in entry:
        if key not in own and key not in TRAIN_KEYS:
            raise no_such("hyperparameter", key, [*own, *TRAIN_KEYS], f" in the strategy {name}")
    swept = {**train, **entry}
    for key, value in swept.items():
        if value == []:
            raise ValueError(f"{key} of the strategy {name} is an empty list: nothing would run")
    for values in itertools.product(*(_as_list(value) for value in swept.values())):
        setting = dict(zip(swept, values, strict=True))
        args = TrainArgs(**{key: setting.pop(key) for key in TRAIN_KEYS if key in setting})
        yield name, hparams_of(strategy(**setting)), args


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _names(kind: str, value: Any, table: Mapping[str, object]) -> Sequence[str]:
    names = _as_list(value)
    if not names:
        raise ValueError(f"{kind}s is an empty list")
    for name in names:
        if name not in table:
            raise no_such(kind, name, table)
    return names


def _whole(key: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{key} must hold whole numbers of at least {least}, got {value!r}")
    return value
