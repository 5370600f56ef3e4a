"""Adapters side by side: all of a folder in a list, and two of them tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweeper.adapters import opened


@dataclass(frozen=True)
class Listed:
    """One folder of a list; ``damage`` says why nothing else is known of it."""

    name: str
    strategy: str | None = None
    layout: str | None = None
    base: str | None = None
    task: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    test_score: float | None = None
    damage: str | None = None


def listed(root: Path) -> list[Listed]:
    """Return a line for each folder in a folder, in the order of their names.

    Raises:
        ValueError: there is no such folder.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {str(root)!r}; `sweeper adapters save TRIAL_ID` makes one")
    return [_line(path) for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _line(folder: Path) -> Listed:
    try:
        with opened(folder) as found:
            tensors = found.file.load()
    except ValueError as error:
        return Listed(folder.name, damage=str(error))
    facts = found.facts
    trial = facts.trial if facts else None
    return Listed(
        folder.name,
        facts.strategy if facts else f"peft:{str(found.config.get('peft_type')).lower()[:40]}",
        found.layout,
        facts.base if facts else str(found.config.get("base_model_name_or_path"))[:80],
        trial.task if trial else None,
        sum(tensor.numel() for tensor in tensors.values()),
        sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        facts.scores.get("test_score") if facts else None,
    )


def difference(a: Path, b: Path) -> dict[str, Any]:
    """Return in what two adapters differ.

    Returns:
        ``config``: key -> both values, where they are not equal; ``only_in_a``, ``only_in_b``: names of tensors;
        ``shapes``: name -> both shapes, where they differ; ``tensors``: name -> ``max_abs_difference`` and
        ``cosine`` of the angle between them (``None`` where one is all zero).

    Raises:
        ValueError: one is no adapter, or damaged.
    """
    with opened(a) as first, opened(b) as second:
        left, right = first.file.load(), second.file.load()
        configs = [_flat({**x.config, **(x.facts.to_dict() if x.facts else {})}) for x in (first, second)]
    keys = [*dict.fromkeys([*configs[0], *configs[1]])]
    both = [name for name in left if name in right]
    return {
        "config": {
            key: [config.get(key) for config in configs] for key in keys if configs[0].get(key) != configs[1].get(key)
        },
        "only_in_a": [name for name in left if name not in right],
        "only_in_b": [name for name in right if name not in left],
        "shapes": {
            name: [[*left[name].shape], [*right[name].shape]] for name in both if left[name].shape != right[name].shape
        },
        "tensors": {name: _apart(left[name], right[name]) for name in both if left[name].shape == right[name].shape},
    }


def _apart(a: torch.Tensor, b: torch.Tensor) -> dict[str, float | None]:
    x, y = a.double().flatten(), b.double().flatten()
    norms = float(x.norm() * y.norm())
    return {
        "max_abs_difference": float((x - y).abs().max()) if len(x) else 0.0,
        "cosine": float(x @ y) / norms if norms else None,
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return found
