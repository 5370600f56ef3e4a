"""What a configuration is written from, and what is the same in all of them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.feasible import BATCH_SIZE, SEQ_LEN
from advisor.recommend import Candidate
from advisor.situation import Situation

WARMUP = 0.06
"""Share of the steps that our own trials warm up for, before the rate falls linearly to zero (`TrainArgs`)."""
EPOCHS = 3
"""Passes over the rows, where neither trials nor the literature say how long to train."""
LOW_RANK = ("lora", "qlora")
TRAINING = frozenset({"lr", "steps", "epochs", "batch_size", "weight_decay"})
# Ours, where a tool need not know of them: they change how something is computed, not what.
IDLE = frozenset({"form"})
USUAL: Mapping[str, Any] = {"scaling": "standard", "b_rate": 1.0, "dropout": 0.0, "init": "standard", "dora": False}
"""Of LoRA: settings that are no wish of anybody's."""
TASK_TYPES = {
    "classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "tagging": "TOKEN_CLS",
    "generation": "CAUSAL_LM",
}
# Role -> what families of transformers call it.
NAMES = {
    "query": ("q_proj", "query", "q_lin"),
    "key": ("k_proj", "key", "k_lin"),
    "value": ("v_proj", "value", "v_lin"),
}


class CannotSayError(ValueError):
    """A tool has no way to say a strategy, or one of its settings."""


@dataclass(frozen=True)
class Job:
    """One candidate of an answer, and where it is to train.

    Attributes:
        why: The answer in a line.
        model: As the tool's user names it; ``None`` where that is not known.
        data: Their file, and its columns of inputs and labels; ``None`` where these are not known.
        work: "classification", "generation", ...; ``None`` where it is not known.
    """

    candidate: Candidate
    situation: Situation
    why: str
    model: str | None = None
    data: str | None = None
    text: str | None = None
    label: str | None = None
    work: str | None = None

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return self.candidate.strategy

    @property
    def settings(self) -> Mapping[str, Any]:
        """Hyperparameters, training included."""
        return self.candidate.settings

    @property
    def own(self) -> dict[str, Any]:
        """Hyperparameters of the strategy alone, without those that are as usual or say nothing."""
        return {
            name: value
            for name, value in self.settings.items()
            if name not in TRAINING | IDLE and value is not None and not (name in USUAL and value == USUAL[name])
        }

    @property
    def lr(self) -> float:
        """The peak learning rate."""
        return float(self.settings["lr"])

    @property
    def weight_decay(self) -> float:
        """Of AdamW."""
        return float(self.settings.get("weight_decay", 0.0))

    @property
    def rows(self) -> tuple[int, int]:
        """Rows at once, and how often gradients are summed before a step."""
        batch = int(self.settings.get("batch_size", BATCH_SIZE))
        need = self.candidate.need
        at_once = min(batch, need.rows) if need is not None else batch
        return at_once, math.ceil(batch / at_once)

    @property
    def tokens(self) -> int:
        """Of a row, at which it is cut: as the memory was counted."""
        return self.situation.seq_len or SEQ_LEN

    @property
    def checkpointing(self) -> bool:
        """Whether activations are to be computed again, to save memory."""
        return self.candidate.need is not None and self.candidate.need.checkpointing

    @property
    def bf16(self) -> bool:
        """Whether weights are in 16 bits, as the memory was counted."""
        return bool(self.situation.large)

    @property
    def task_type(self) -> str | None:
        """peft's name for the work; where nobody said, large models write and small ones classify."""
        if self.situation.modality in ("image", "tabular"):
            return None
        return TASK_TYPES.get(self.work or ("generation" if self.situation.large else "classification"))


def require(job: Job, tool: str, strategies: Sequence[str], settings: Mapping[str, Sequence[Any] | None]) -> None:
    """Raise CannotSayError where a tool lacks a strategy, or one of its settings.

    Args:
        job: What is to be said.
        tool: Name of the tool.
        strategies: Those that it has.
        settings: Hyperparameter -> the values that it has; ``None`` for all.
    """
    if job.strategy not in strategies:
        raise CannotSayError(f"{tool} has no {job.strategy}")
    for name, value in job.own.items():
        if name not in settings:
            raise CannotSayError(f"{tool} has no {job.strategy}.{name}, which is {value} here")
        values = settings[name]
        if values is not None and value not in values:
            known = ", ".join(map(str, values))
            raise CannotSayError(f"{tool} has {job.strategy}.{name} as {known} only, which is {value} here")


def whole(job: Job, name: str) -> int:
    """Return a hyperparameter that a tool wants as a whole number.

    Raises:
        CannotSayError: it is none.
    """
    value = job.settings[name]
    if value != int(value):
        raise CannotSayError(f"{job.strategy}.{name} must be a whole number there, and is {value:g} here")
    return int(value)


def modules(job: Job) -> list[str] | None:
    """Return the names that families of transformers have for the layers that are targets; ``None`` for all linears.

    Raises:
        CannotSayError: a role has no name that all of them would understand.
    """
    targets = str(job.settings.get("targets", "all"))
    if targets == "all":
        return None
    roles = targets.split("+")
    unknown = [role for role in roles if role not in NAMES]
    if unknown:
        raise CannotSayError(
            f"{job.strategy}.targets {targets!r}: each family of models has its own name for {unknown[0]}"
        )
    return [name for role in roles for name in NAMES[role]]


def to_yaml(content: Mapping[str, Any]) -> str:
    """Return YAML, keys in their order."""
    import yaml  # ray brings it; an answer without --emit does without

    text: str = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


def header(job: Job, run: str, *todo: str) -> str:
    """Return comment lines: what this is, why, how it runs, and what is left to be set."""
    lines = [
        f"{job.strategy}, by `advisor recommend`. {job.why}",
        f"Settings: {job.candidate.settings_from}.",
        f"Run: {run}",
        *(f"To set: {text}" for text in todo if text),
    ]
    shown = [part for line in lines for part in textwrap.wrap(_plain(line), 108, subsequent_indent="  ")]
    return "".join(f"# {line}\n" for line in shown)


def _plain(line: str) -> str:
    """Return a line that stays in its comment, whatever a fitted file holds."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)
