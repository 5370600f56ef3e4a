"""What the user knows, and what "large", "small" and "low" mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

DataSize = Literal["small", "medium", "large"]
Compute = Literal["low", "medium", "high"]

# The one place where words become numbers. Bounds are upper and exclusive.
LARGE_MODEL_PARAMS = 1_000_000_001  # "large" is over 1 B parameters
DATA_SIZES: Mapping[str, float] = {"small": 2_001, "medium": 50_001, "large": float("inf")}  # training rows
COMPUTE_GPU_BYTES: Mapping[str, float] = {"low": 24e9, "medium": 80e9, "high": float("inf")}

# The four questions, in the order in which they are asked: name -> possible answers.
QUESTIONS: Mapping[str, tuple[object, ...]] = {
    "large": (True, False),
    "similar": (True, False),
    "data": tuple(DATA_SIZES),
    "compute": tuple(COMPUTE_GPU_BYTES),
}


@dataclass(frozen=True)
class Situation:
    """What is known of model, data and budget; ``None`` is unknown and is never guessed.

    Attributes:
        large: Whether the model has more than 1 B parameters.
        similar: Whether the task is similar to what the model was pretrained on.
        data: Size of the labelled training set: small up to 2,000 rows, medium up to 50,000.
        compute: Budget: low below 24 GB of GPU memory (or none), high from 80 GB on.
        modality: "text", "image" or "tabular".
        model_params: Parameters of the model.
        n_train: Labelled training rows.
        gpu_memory: Bytes of GPU memory.
        seq_len: Tokens of the longest texts, on which memory depends.
    """

    large: bool | None = None
    similar: bool | None = None
    data: DataSize | None = None
    compute: Compute | None = None
    modality: str | None = None
    model_params: float | None = None
    n_train: int | None = None
    gpu_memory: float | None = None
    seq_len: int | None = None

    def __post_init__(self) -> None:
        if self.seq_len is not None and self.modality in ("image", "tabular"):
            raise ValueError(f"{self.seq_len:,} tokens are of texts, and the rows are {self.modality}: leave one out")
        if self.model_params is not None:
            self._derive("large", self.model_params >= LARGE_MODEL_PARAMS, f"{self.model_params:,.0f} parameters")
        if self.n_train is not None:
            self._derive("data", _bucket(self.n_train, DATA_SIZES), f"{self.n_train:,} rows")
        if self.gpu_memory is not None:
            self._derive("compute", _bucket(self.gpu_memory, COMPUTE_GPU_BYTES), f"{self.gpu_memory / 1e9:g} GB")

    def _derive(self, name: str, value: object, number: str) -> None:
        stated = getattr(self, name)
        if stated is not None and stated != value:
            raise ValueError(
                f"{describe(name, stated)} contradicts {number}, which is {describe(name, value)}: leave one out"
            )
        object.__setattr__(self, name, value)

    def answer(self, question: str) -> object:
        """Return the answer to one of `QUESTIONS`, ``None`` if unknown."""
        return getattr(self, question)

    def with_answer(self, question: str, value: object) -> Situation:
        """Return the situation with another answer, and without the number that stood for it."""
        changes: dict[str, Any] = {question: value}
        number = {"large": "model_params", "data": "n_train", "compute": "gpu_memory"}.get(question)
        if number:
            changes[number] = None
        return replace(self, **changes)


def _bucket(value: float, bounds: Mapping[str, float]) -> str:
    return next(name for name, bound in bounds.items() if value < bound)


def describe(question: str, value: object) -> str:
    """Return an answer in words."""
    if question == "large":
        return "a large model" if value else "a small model"
    if question == "similar":
        return "a task similar to pretraining" if value else "a task different from pretraining"
    return f"{value} {question}"


def flag(question: str, value: object) -> str:
    """Return an answer as a command-line flag."""
    if question == "large":
        return "--large-model" if value else "--small-model"
    if question == "similar":
        return "--task-similar" if value else "--task-different"
    return f"--data-size {value}" if question == "data" else f"--compute {value}"


_COUNT = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmbt]?)", re.IGNORECASE)
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:(m|g|t)(i?)b?)?", re.IGNORECASE)


def parse_count(text: str) -> float:
    """Return a number of parameters: "7B", "350M", "40k", "6.7e9".

    Raises:
        ValueError: the text is no such number.
    """
    match = _COUNT.fullmatch(text.strip())
    value = float(match[1]) * 1000 ** " kmbt".index(match[2].lower() or " ") if match else 0.0
    if not 0 < value < 1e18:
        raise ValueError(f"{text!r} is not a number of parameters. Examples: 7B, 350M, 40k")
    return value


def parse_bytes(text: str) -> float:
    """Return an amount of memory in bytes: "16GB", "24GiB", "512MB"; a bare number counts GB.

    Raises:
        ValueError: the text is no such amount.
    """
    match = _BYTES.fullmatch(text.strip())
    value = 0.0
    if match:
        base = 1024.0 if match[3] else 1000.0
        value = float(match[1]) * base ** {"m": 2, "g": 3, "t": 4}[(match[2] or "g").lower()]
    if not 0 < value < 1e18:
        raise ValueError(f"{text!r} is not an amount of memory. Examples: 16GB, 24GiB, 512MB")
    return value
