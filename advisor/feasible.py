"""What candidates cost on the user's model, what does not fit, and which are not beaten on every count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.costs import Interval, estimate
from advisor.plan import verdict
from advisor.shapes import from_count
from advisor.situation import Situation

BATCH_SIZE, SEQ_LEN = 8, 512
"""What `advisor plan` assumes where nothing is said."""
LEAST_PARAMS = 1e6
"""Of what is smaller the formulas say little: the program itself takes more."""


@dataclass(frozen=True)
class Need:
    """What a candidate needs.

    Attributes:
        verdict: "fits", "tight" or "does not fit"; ``None`` where the memory of the device is not known.
        under: Precision, rows and tokens of a step.
        rows: At once.
        checkpointing: Whether activations are computed again.
    """

    memory_bytes: Interval
    adapter_bytes: int
    trainable_params: int
    verdict: str | None
    under: str
    rows: int
    checkpointing: bool


def need(strategy: str, settings: Mapping[str, Any], situation: Situation) -> Need | None:
    """Return what a candidate needs; ``None`` where the model's size is unknown, or it is not one with formulas."""
    if situation.model_params is None or situation.modality == "tabular" or situation.model_params < LEAST_PARAMS:
        return None
    shape = from_count(situation.model_params, situation.modality == "image")
    batch_size, tokens = int(settings.get("batch_size", BATCH_SIZE)), int(shape.tokens or situation.seq_len or SEQ_LEN)
    precision = "bf16" if situation.large else "fp32"
    # What does not fit as it is may with fewer rows at once, and activations computed again: steps of the same rows.
    ways = [(batch_size, False), *((rows, True) for rows in (batch_size, 4, 2, 1) if rows <= batch_size)]
    for rows, checkpointing in ways if situation.gpu_memory is not None else ways[:1]:
        try:
            costs = estimate(strategy, settings, shape, rows, tokens, precision, checkpointing)
        except (ValueError, TypeError):  # a strategy or setting without a formula
            return None
        found = Need(
            memory_bytes=costs.memory_bytes,
            adapter_bytes=costs.adapter_bytes,
            trainable_params=costs.trainable_params,
            verdict=None if situation.gpu_memory is None else verdict(costs.memory_bytes, situation.gpu_memory),
            under=f"{costs.precision}, {rows} x {tokens} tokens at once{', checkpointing' * checkpointing}",
            rows=rows,
            checkpointing=checkpointing,
        )
        if found.verdict == "fits":
            break
    return found


def not_beaten(objectives: Sequence[Sequence[float] | None]) -> list[bool]:
    """Return which entries no other one beats: none is as good on every count and better on one (less is better)."""
    return [
        own is not None
        and not any(
            other is not None and other != own and all(a <= b for a, b in zip(other, own, strict=True))
            for other in objectives
        )
        for own in objectives
    ]
