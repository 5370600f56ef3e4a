"""The nouns: what a trial is (`TrialSpec`) and what came of it (`TrialResult`)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Any

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


MOST = 2**31  # steps and rows beyond this are a mistyped number
SEEDS = 2**63  # what every table format can hold


class Status(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    TIMED_OUT = "timed_out"
    PREEMPTED = "preempted"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether running the trial again would only find the same; a crash or a time-out may pass."""
        return self not in (Status.FAILED, Status.TIMED_OUT, Status.PREEMPTED)


@dataclass(frozen=True)
class TrainArgs:
    """How a trial trains. The budget is counted in optimizer steps, so no strategy trains longer than another.

    ``lr`` is the peak rate: it is reached linearly over the first ``warmup`` share of the steps and then
    falls linearly to zero (the recipe of RoBERTa, arXiv 1907.11692, appendix C).
    """

    lr: float = 1e-3
    batch_size: int = 32
    steps: int = 120
    weight_decay: float = 0.0
    warmup: float = 0.06

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "warmup"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
            object.__setattr__(self, name, float(value))
        for name in ("batch_size", "steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < MOST:
                raise ValueError(f"{name} must be a whole number from 1 to {MOST - 1}, got {value!r}")
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the steps, at least 0 and below 1, got {self.warmup}")


@dataclass(frozen=True)
class TrialSpec:
    """Everything that decides a trial's outcome, and nothing else.

    ``hparams`` holds every hyperparameter of the strategy, defaults filled in, as JSON's own types;
    ``n_train`` is the number of labelled training rows.
    """

    model: str
    task: str
    n_train: int
    strategy: str
    hparams: Mapping[str, Json]
    train: TrainArgs
    seed: int

    def __post_init__(self) -> None:
        # Names come from strangers' grids and stores, and go to terminals.
        for name, value in {**self.hparams, "model": self.model, "task": self.task, "strategy": self.strategy}.items():
            if not name.isprintable() or (isinstance(value, str) and not value.isprintable()):
                raise ValueError(f"{name!r} must be without control characters, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON values; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialSpec:
        """Return the spec that `to_dict` wrote."""
        return cls(**{**data, "train": TrainArgs(**data["train"])})

    @cached_property
    def trial_id(self) -> str:
        """16 hex digits of the SHA-256 of the contents: equal specs share it, on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# What tables, pictures and the advisor may count on in a complete row.
ALWAYS = {
    "metrics": (
        "valid_score",
        "test_score",
        "trainable_params",
        "total_params",
        "train_seconds",
        "peak_memory_bytes",
    ),
    "context": ("modality", "metric", "model_params", "memory_kind"),
}


@dataclass(frozen=True)
class TrialResult:
    """One row of the results store: the spec, what was measured, and where.

    A value that was not measured is absent from its mapping, never a stand-in number.

    Attributes:
        metrics: Numbers, lists of numbers and names, named and explained in `sweeper.metrics`.
        curve: One mapping per evaluation: ``step``, ``seconds``, ``train_loss``, ``valid_score``.
        context: Facts about model and task that advice may depend on.
        provenance: Commit, versions, hardware, time.
        error: One line on what went wrong, for every status but ``complete``.
    """

    spec: TrialSpec
    status: Status
    metrics: Mapping[str, Any] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def trial_id(self) -> str:
        """The id of the spec."""
        return self.spec.trial_id

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON values; `from_dict` is the way back."""
        row = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **row,
            "trial_id": self.trial_id,
            "spec": self.spec.to_dict(),
            "status": self.status.value,
            "curve": list(self.curve),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialResult:
        """Return the row that `to_dict` wrote.

        Raises:
            ValueError: The stored id is not the id of the stored spec, or a complete row lacks what every
                complete row has.
        """
        data = dict(data)
        stored_id = data.pop("trial_id")
        for name in ("metrics", "context", "provenance"):
            if not isinstance(data[name], Mapping):
                raise ValueError(f"{name} is not an object")
        if data["status"] == Status.COMPLETE:
            for group, names in ALWAYS.items():
                missing = [name for name in names if data[group].get(name) is None]
                if missing:
                    raise ValueError(f"a complete row without {', '.join(missing)}")
        spec = TrialSpec.from_dict(data["spec"])
        if spec.trial_id != stored_id:
            raise ValueError(f"trial_id {stored_id} does not belong to this spec, whose id is {spec.trial_id}")
        return cls(**{**data, "spec": spec, "status": Status(data["status"]), "curve": tuple(data["curve"])})
