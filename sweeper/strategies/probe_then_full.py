"""Linear probe, then full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sweeper.models.base import LoadedModel
from sweeper.spec import Json
from sweeper.strategies.base import Stage, check_above_zero


@dataclass(frozen=True)
class ProbeThenFull:
    """Train a fresh head on the frozen backbone, then everything at a lower rate.

    Formula: ``head alone at lr for probe_share of the steps, then all of theta at full_rate * lr``.

    A head that fits the features keeps full fine-tuning from distorting them (LP-FT, arXiv 2202.10054,
    section 3.4).

    Attributes:
        probe_share: Share of the steps for the head alone.
        full_rate: Factor on the learning rate once everything trains.
    """

    name: ClassVar[str] = "probe_then_full"
    per_member: ClassVar[frozenset[str]] = frozenset({"full_rate"})
    space: ClassVar[Mapping[str, Sequence[Json]]] = {
        "probe_share": (0.25, 0.5),
        "full_rate": (0.01, 0.1),
        "lr": (1e-3, 3e-3, 1e-2),
    }

    probe_share: float = 0.5
    full_rate: float = 0.1

    def __post_init__(self) -> None:
        share = check_above_zero("probe_then_full.probe_share", self.probe_share)
        if share >= 1:
            raise ValueError(f"probe_then_full.probe_share must be below 1, got {share!r}")
        object.__setattr__(self, "probe_share", share)
        object.__setattr__(self, "full_rate", check_above_zero("probe_then_full.full_rate", self.full_rate))

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Wake a fresh head, then the whole network."""
        model.wake_fresh_head()
        yield Stage(self.probe_share)
        model.wake("")
        yield Stage(1 - self.probe_share, rates={"": [member.full_rate for member in members]})
