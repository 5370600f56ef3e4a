"""A grid on the user's own data: the task instead of the grid's, and settings that suit the data and the model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sweeper.fetch import fetched
from sweeper.models.base import UnavailableError
from sweeper.suggest import no_such
from sweeper.tasks.columns import Asked
from sweeper.tasks.own import Prepared, in_words, prepare
from sweeper.tasks.rows import sizes_of
from sweeper.work import GENERATION

# [data] in a grid file: its keys, and what they are called elsewhere.
KEYS = {
    "file": "data",
    "text": "text_column",
    "label": "label_column",
    "group": "group_column",
    "work": "work",
    "encoding": "encoding",
    "image_size": "image_size",
}
FROM_SCRATCH = ("mlp", "small_cnn", "tiny_transformer")
SCRATCH_RATES = [1e-3, 3e-3, 1e-2]  # random weights need more than the rates at which pretrained ones are adapted


@dataclass(frozen=True)
class OwnData:
    """What a launch on own data replaces in a grid.

    Attributes:
        prepared: The rows.
        models: Instead of the grid's.
        steps: Instead of what suits the data.
        notes: What was found and chosen, for the user to see before anything runs.
    """

    prepared: Prepared
    models: tuple[str, ...]
    steps: int | None
    notes: tuple[str, ...]

    def contents(self, content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return a grid's content for each of the models, on these rows."""
        pool = sizes_of(self.prepared.rows)[0]
        kept = {key: value for key, value in content.items() if key != "data"}
        sizes = content.get("n_train", [])
        fitting = [n for n in (sizes if isinstance(sizes, list) else [sizes]) if not isinstance(n, int) or n <= pool]
        kept.pop("n_train", None)
        if fitting:
            kept["n_train"] = fitting
        found = []
        for model in self.models:
            # What a file with [data] says of training is about these rows; another grid's is about its own tasks.
            said = content.get("train", {}) if "data" in content else {}
            train = {**defaults(self.prepared, model), **(said if isinstance(said, dict) else {})}
            if self.steps is not None:
                train["steps"] = self.steps
            found.append({**kept, "models": [model], "tasks": [self.prepared.task], "train": train})
        return found


def defaults(prepared: Prepared, model: str) -> dict[str, Any]:
    """Return training settings that suit the data and the model.

    Pretrained networks see the rows about twice, within bounds that keep a sweep short; networks with random weights,
    which are small, about ten times.
    """
    rows = prepared.rows
    n_train, scratch = sizes_of(rows)[0], model in FROM_SCRATCH
    batch = 32 if rows.modality == "tabular" or scratch else 16
    batch = min(batch, max(4, n_train // 4))
    passes, least, most = (10, 120, 600) if scratch else (2, 40, 120)
    steps = min(most, max(least, passes * n_train // batch))
    return {"lr": SCRATCH_RATES if scratch else "space", "batch_size": batch, "steps": steps}


def default_model(prepared: Prepared) -> tuple[str, str]:
    """Return the model for rows where the user names none, and why.

    Raises:
        ValueError: there is none for this work.
    """
    rows = prepared.rows
    if rows.modality == "tabular":
        return "mlp", "for columns of numbers"
    if rows.modality == "text":
        if rows.work == GENERATION:
            raise ValueError("generation needs a language model: --model hf:NAME or --model hf:FOLDER")
        return "minilm", "for texts"
    try:
        fetched("mobilenet_v2")
    except UnavailableError:
        return "small_cnn", "for images; `sweeper data fetch mobilenet_v2` gets pretrained weights"
    return "torchvision:mobilenet_v2", "for images: its pretrained weights are here"


def own_data(asked: Asked, models: Sequence[str] = (), steps: int | None = None) -> OwnData:
    """Return what a launch on own data replaces in a grid; the rows are prepared for it.

    Raises:
        ValueError: the data cannot be used.
    """
    prepared = prepare(asked)
    notes = in_words(prepared.report)
    if not models:
        model, why = default_model(prepared)
        models = (model,)
        notes.append(f"  model: {model} ({why}); --model takes another")
    for model in models:
        train = defaults(prepared, model)
        rates = "each strategy's own rates" if train["lr"] == "space" else "rates " + ", ".join(map(str, train["lr"]))
        notes.append(f"  {model}: {steps or train['steps']} steps of {train['batch_size']} rows, {rates}")
        if model in FROM_SCRATCH:
            notes.append(f"  {model}: its weights are random here, so what a strategy leaves frozen knows nothing yet")
    return OwnData(prepared, tuple(models), steps, tuple(notes))


def of_table(table: Any, models: Any, folder: Path) -> OwnData:
    """Return what the table ``[data]`` of a grid file in a folder describes.

    Raises:
        ValueError: it has an unknown key or a bad value, or the data cannot be used.
    """
    if not isinstance(table, dict) or "file" not in table:
        raise ValueError(f'[data] must be a table with file = "NAME", got {str(table)[:80]}')
    for key, value in table.items():
        if key not in KEYS:
            raise no_such("key", key, KEYS, " in [data]")
        wanted: type = int if key == "image_size" else str
        if not isinstance(value, wanted) or isinstance(value, bool) or not value:
            raise ValueError(f"{key} in [data] must be {'a number' if wanted is int else 'a text'}, got {value!r}")
    said = {KEYS[key]: value for key, value in table.items()}
    if not said["data"].startswith("hf:"):
        said["data"] = os.path.relpath(folder / said["data"])
    known = {field.name for field in fields(Asked)}
    names = [models] if isinstance(models, str) else models
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"models must hold names, got {models!r}")
    own = own_data(Asked(**{key: value for key, value in said.items() if key in known}), names)
    return replace(own, notes=tuple(in_words(own.prepared.report)))  # how to train is what the file says


def grid_file(asked: Asked, folder: Path) -> str:
    """Return the text of a commented grid file, to lie in a folder, for own data.

    Raises:
        ValueError: the data cannot be used.
    """
    own = own_data(asked)
    report, train = own.prepared.report, defaults(own.prepared, own.models[0])
    pool = report["splits"]["train"]
    data = asked.data if asked.data.startswith("hf:") else os.path.relpath(asked.data, folder)
    lines = [
        f"# {report['data']}: {report['rows']:,} rows, {report['work']} of {report['modality']} rows.",
        "# A list is swept, a single value is held. `sweeper launch --grid THIS_FILE --dry-run` shows the trials.",
        f"question = {quoted('Which strategy does best on ' + str(report['data']) + '?')}",
        "",
        "# Also, for example: hf:FOLDER, torchvision:resnet18; `sweeper ls` lists more.",
        f"models = [{quoted(own.models[0])}]",
        "seeds = [0, 1, 2] # each seed splits the rows anew; fewer than 3 say little",
        f"# n_train = [{max(2, pool // 4)}, {pool}] # default: all that there are",
        "",
        "[data]",
        f"file = {quoted(data)} # seen from the folder of this file",
        _line("text", None if report["modality"] != "text" else report["inputs"][0], "the column with the text"),
        _line("label", report["label"], "the column to be predicted"),
        _line("group", asked.group_column, "rows of one value, for example of one user, stay on one side of a split"),
        _line("work", report["work"], "classification, regression, tagging or generation"),
    ]
    if asked.encoding:
        lines.append(_line("encoding", asked.encoding, "of the file"))
    if asked.image_size:
        lines.append(f"image_size = {asked.image_size} # pixels a side")
    lines += [
        "",
        "[train]",
        f"lr = {quoted('space') if train['lr'] == 'space' else train['lr']} # "
        + ("the strategy's own three rates" if train["lr"] == "space" else "every strategy gets the same search"),
        f"steps = {train['steps']} # of the optimizer, the same for every strategy",
        f"batch_size = {train['batch_size']}",
        "",
        "# The baseline, and what is to be compared with it; `sweeper ls` lists all, with their settings.",
    ]
    for name, setting in (
        ("full", ""),
        ("feature_extraction", ""),
        ("lora", "rank = 8 # a list such as [2, 8, 32] is swept"),
        ("partial_unfreeze", ""),
    ):
        lines += ["[[strategies]]", f"name = {quoted(name)}", *([setting] if setting else []), ""]
    return "\n".join(lines)


def _line(key: str, value: Any, comment: str) -> str:
    """Return a line of a grid file, commented out where there is no value."""
    return f"{key} = {quoted(str(value))} # {comment}" if value else f'# {key} = "NAME" # {comment}'


def quoted(text: str) -> str:
    """Return a TOML string."""
    inside = "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in text)
    return f'"{inside}"'
