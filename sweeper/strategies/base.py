"""What a strategy is: its fields are its hyperparameters, its `adapt` says what trains, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self

from sweeper.models.base import LoadedModel


@dataclass(frozen=True)
class Stage:
    """One part of the training.

    Attributes:
        share: Its share of the trial's steps; the shares of all stages sum to 1.
        rates: Module path -> one factor a member on the trial's learning rate, for all parameters
            below that path. Where several paths fit, the longest counts; elsewhere the factor is 1.
    """

    share: float = 1.0
    rates: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Strategy(Protocol):
    """One way to fine-tune. A frozen dataclass whose fields are the hyperparameters.

    Attributes:
        per_member: Fields that may differ between the trials of one pack; all others are shared.
    """

    name: ClassVar[str]
    per_member: ClassVar[frozenset[str]]

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Edit the model, yield a stage, be resumed when that stage has trained.

        Args:
            model: A network with every parameter frozen.
            members: The strategies of the pack's members; ``self`` is the first of them and speaks
                for the fields that they share.

        Yields:
            Stages. At each yield the parameters with ``requires_grad`` are exactly those it trains.

        Raises:
            ValueError: a hyperparameter does not fit this model. The model is then unchanged.
        """
        ...


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_above_zero(name: str, value: object) -> float:
    """Return ``value`` as a float; raise ValueError unless it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return float(value)
