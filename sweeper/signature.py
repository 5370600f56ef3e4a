"""What a fine-tuned model reads and answers: kept beside its weights, so that its folder is enough to ask it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sweeper.models.base import LoadedModel
from sweeper.suggest import no_such
from sweeper.tasks.base import Features, TaskData
from sweeper.work import CLASSIFICATION, GENERATION, TAGGING, WORK

MODALITIES = ("text", "image", "tabular")
MOST_CLASSES, MOST_NUMBERS, MOST_LETTERS = 100_000, 2**24, 1000
# Longer than any model here reads, so that where texts are cut shows in it too.
PROBE = ("It isn't naïve: 3.5 µm, 東京 🙂 <b>FINE</b>\n", "word-piece unbelievably " * 60)


@dataclass(frozen=True)
class Signature:
    """What goes in and what comes out.

    Attributes:
        work: A name in `sweeper.work.WORK`.
        modality: Of `MODALITIES`.
        input_shape: Of one row, as the network's builder takes it; ``()`` for texts.
        n_classes: Likewise.
        labels: Names of classes or tags by their number; none where they have no names.
        unit: For regression, how much 1 in an output is in the target's own unit.
        zero: Likewise, what 0 is.
        has_source: Whether the base is a network that was first trained on the task's source domain.
        features: For tabular rows, how they come from columns, where that is known.
        tokens: Digest of the token ids of a fixed text (`tokens_digest`); empty where the rows are no texts.
    """

    work: str
    modality: str
    input_shape: tuple[int, ...]
    n_classes: int
    labels: tuple[str, ...] = ()
    unit: float = 1.0
    zero: float = 0.0
    has_source: bool = False
    features: Features | None = None
    tokens: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` is the way back."""
        return asdict(self)

    def label(self, number: int) -> str:
        """Return the name of a class or tag."""
        return self.labels[number] if self.labels else str(number)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], where: str) -> Signature:
        """Return what `to_dict` wrote.

        Raises:
            ValueError: a key is unknown or missing, or a value is not what it has to be.
        """
        for key in found:
            if key not in _CHECKS:
                raise no_such("key", key[:80], _CHECKS, f" in the signature in {where}")
        for key, check in _CHECKS.items():
            if key not in found or not check(found[key]):
                raise ValueError(
                    f"{where}: signature: {key} is {str(found.get(key))[:80]!r}, which it cannot be; "
                    "save the adapter anew"
                )
        shape, labels, features = tuple(found["input_shape"]), tuple(found["labels"]), found["features"]
        if labels and len(labels) != found["n_classes"]:
            raise ValueError(
                f"{where}: signature: {len(labels)} labels for {found['n_classes']} classes; save the adapter anew"
            )
        if features is not None:
            columns = {name: tuple(texts) for name, texts in features["columns"].items()}
            features = Features(columns, tuple(features["mean"]), tuple(features["deviation"]))
            wide = sum(len(texts) or 1 for texts in columns.values()) if columns else len(features.mean)
            if {(wide,), (len(features.mean),), (len(features.deviation),)} != {shape}:
                raise ValueError(
                    f"{where}: signature: its features are not the {shape} numbers that the network reads; save the "
                    "adapter anew"
                )
        return cls(**{**found, "input_shape": shape, "labels": labels, "features": features})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _are_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(v, str) and len(v) <= MOST_LETTERS for v in values)


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) > 3:
        return False
    return all(_is_count(size, 1, MOST_NUMBERS) for size in value) and math.prod(value) <= MOST_NUMBERS


def _are_features(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, Mapping) or set(value) != {"columns", "mean", "deviation"}:
        return False
    numbers = (value["mean"], value["deviation"])
    return (
        isinstance(value["columns"], Mapping)
        and all(isinstance(name, str) and _are_texts(texts) for name, texts in value["columns"].items())
        and all(isinstance(own, list | tuple) and all(map(_is_number, own)) for own in numbers)
    )


_CHECKS: dict[str, Any] = {
    "work": lambda value: isinstance(value, str) and value in WORK,
    "modality": lambda value: isinstance(value, str) and value in MODALITIES,
    "input_shape": _is_shape,
    "n_classes": lambda value: _is_count(value, 0, MOST_CLASSES),
    "labels": _are_texts,
    "unit": _is_number,
    "zero": _is_number,
    "has_source": lambda value: isinstance(value, bool),
    "features": _are_features,
    "tokens": lambda value: isinstance(value, str) and len(value) <= 64,
}


def signature_of(model: LoadedModel, data: TaskData) -> Signature:
    """Return what a model of a task reads and answers."""
    return Signature(
        work=data.work,
        modality=str(data.context.get("modality", "")),
        input_shape=data.input_shape,
        n_classes=data.n_classes,
        labels=data.labels if data.work in (CLASSIFICATION, TAGGING) else (),
        unit=data.unit,
        zero=data.zero,
        has_source=data.pretrain is not None,
        features=data.features,
        tokens=tokens_digest(model),
    )


def tokens_digest(model: LoadedModel) -> str:
    """Return 16 hex digits that change with the ids that a model reads for a text: its vocabulary, rules, length."""
    if model.encode is None:
        return ""
    texts: list[Any] = [*PROBE]
    if model.work == TAGGING:
        texts = [tuple(text.split()) for text in PROBE]
    elif model.work == GENERATION:
        texts = [(text, text) for text in PROBE]
    ids, _ = model.encode(texts, torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64))
    return hashlib.sha256(json.dumps(ids.tolist()).encode()).hexdigest()[:16]
