"""Whether trials that may train together are faster together: measured, once for what is alike.

Together they save what a step costs besides arithmetic. Where arithmetic is all that it costs there is nothing to
save, and what little a pack loses by its larger tensors counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import torch

from sweeper.members import CannotPackError
from sweeper.models.base import LoadedModel
from sweeper.pack import pack_key
from sweeper.prefix import find_prefix
from sweeper.spec import TrialSpec
from sweeper.strategies import find_strategy
from sweeper.tasks.base import TaskData
from sweeper.train import train_pack

STEPS = 4
ARITHMETIC = 0.1
"""Seconds: a step on a CPU that takes longer alone is arithmetic, and is not measured in a pack as well."""
WORTH = 0.9
"""Less than this saves nothing over a whole run: few steps are measured, and short ones."""

_known: dict[str, bool] = {}


def pays(model: LoadedModel, data: TaskData, specs: Sequence[TrialSpec]) -> bool:
    """Return whether trials of one pack take less time together than one after the other.

    Args:
        model: As loaded, with a member for each trial; it is not changed.
        data: The rows, as the model reads them.
        specs: The trials.
    """
    alike = json.loads(pack_key(specs[0]))
    del alike["seed"], alike["train"]["steps"]
    key = json.dumps(alike, sort_keys=True)
    if key not in _known:  # what was learned of fewer or more members is near enough
        _known[key] = _only_heads(model, data, specs) or _measure(model, data, specs)
    return _known[key]


def _only_heads(model: LoadedModel, data: TaskData, specs: Sequence[TrialSpec]) -> bool:
    """Return whether all that a step computes is a head, on activations that are kept: hardly anything."""
    some = replace(model.beside(), seeds=model.seeds[:1])
    strategy = find_strategy(specs[0].strategy)(**specs[0].hparams)
    stage = next(strategy.adapt(some, [strategy]))
    prefix = find_prefix(some, [data.splits["train"]])
    rows = specs[0].train.steps * specs[0].train.batch_size * len(specs)
    return stage.share == 1 and prefix is not None and prefix.head and rows >= specs[0].n_train


def _measure(model: LoadedModel, data: TaskData, specs: Sequence[TrialSpec]) -> bool:
    alone = _seconds(model, data, specs[:1])
    if next(model.network.parameters()).device.type == "cpu" and alone > ARITHMETIC:
        return False
    try:
        return _seconds(model, data, specs) < WORTH * alone * len(specs)
    except (CannotPackError, torch.OutOfMemoryError, MemoryError):
        return False


def _seconds(model: LoadedModel, data: TaskData, specs: Sequence[TrialSpec]) -> float:
    """Return the seconds of one step of all these trials together."""
    members = len(specs)
    some = replace(model.beside(), seeds=model.seeds[:members])
    trained = train_pack(
        some,
        [find_strategy(spec.strategy)(**spec.hparams) for spec in specs],
        [replace(spec.train, steps=STEPS) for spec in specs],
        [data.splits["train"]] * members,
        [],
        "",
        {name: data.splits[name] for name in ("source_train",) if name in data.splits},
    )
    return trained[0].step_seconds
