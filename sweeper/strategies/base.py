"""What a strategy is: its fields are its hyperparameters, its `adapt` says what trains, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Protocol, Self

from torch import Tensor, nn

from sweeper.models.base import LoadedModel, NotApplicableError
from sweeper.spec import Json


class Draw(Protocol):
    """Gives the next rows of a split, an endless shuffled stream for each split and share."""

    def __call__(self, split: str, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return inputs ``(members * batch, ...)`` and labels ``(members, batch)``.

        Args:
            split: "train", or another that the stage names in `Stage.needs`.
            share: From this share of the split's rows alone, at least one, each class with its share; each
                member in its own order.
        """
        ...


Objective = Callable[[LoadedModel, Draw], Tensor]
"""What a stage minimises: each member's loss for one step, ``(members,)``."""


def labelled(model: LoadedModel, draw: Draw, share: float = 1.0) -> Tensor:
    """Return each member's loss on its next rows of "train": the ordinary objective."""
    x, y = draw("train", share)
    return model.loss(model.logits(x), y)


@dataclass(frozen=True)
class Stage:
    """One part of the training.

    Attributes:
        share: Its share of the trial's steps; the shares of all stages sum to 1.
        rates: Path of a module or a parameter -> one factor a member on the trial's learning rate, for
            all parameters there; the empty path is the whole network. Where several paths fit, the
            longest counts; elsewhere the factor is 1.
        objective: What it minimises.
        needs: Split that the objective draws from besides "train" -> why, in plain words.
    """

    share: float = 1.0
    rates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    objective: Objective = labelled
    needs: Mapping[str, str] = field(default_factory=dict)


class Strategy(Protocol):
    """One way to fine-tune. A frozen dataclass whose fields are the hyperparameters.

    Attributes:
        per_member: Fields that may differ between the trials of one pack; all others are shared.
        space: What a sweep of this strategy tries: values for its fields, and under "lr" three learning
            rates, half a decade apart. The rates are around those that small pretrained transformers took
            in our own short runs (`film_reviews`, tens of steps); the long runs of large models that papers
            report stay at the low end and below. Other values come from the paper that the docstring names.
    """

    name: ClassVar[str]
    per_member: ClassVar[frozenset[str]]
    space: ClassVar[Mapping[str, Sequence[Json]]]

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Edit the model, yield a stage, be resumed when that stage has trained.

        Args:
            model: A network with every parameter frozen.
            members: The strategies of the pack's members; ``self`` is the first of them and speaks
                for the fields that they share.

        Yields:
            Stages. At each yield the parameters with ``requires_grad`` are exactly those it trains.

        Raises:
            NotApplicableError: the strategy makes no sense on this model, whatever its hyperparameters.
            ValueError: a hyperparameter does not fit this model. In both cases the model is unchanged.
        """
        ...


# For a field that came after rows had been stored: `hparams_of` leaves it out while it has its default,
# which must be what was done before, so that the ids of those rows stay true.
LATER = {"later": True}


def hparams_of(strategy: Strategy) -> dict[str, Json]:
    """Return a strategy's hyperparameters as they enter a `TrialSpec`: all of them, defaults filled in."""
    return {
        field.name: getattr(strategy, field.name)
        for field in fields(strategy)  # type: ignore[arg-type]  # every strategy is a dataclass
        if not (field.metadata.get("later") and getattr(strategy, field.name) == field.default)
    }


def check_needs(strategy: str, stage: Stage, splits: Collection[str], task: str = "this task") -> None:
    """Raise NotApplicableError where a stage draws from a split that a task has not."""
    for split, reason in stage.needs.items():
        if split not in splits:
            raise NotApplicableError(f"{strategy} does not apply: {reason}, and {task} has none")


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_blocks(name: str, wanted: int, model: LoadedModel) -> None:
    """Raise ValueError where a model has fewer blocks than wanted."""
    if wanted > len(model.blocks):
        raise ValueError(f"{name} is {wanted}, but this model has only {len(model.blocks)} blocks: take fewer")


def check_above_zero(name: str, value: object) -> float:
    """Return ``value`` as a float; raise ValueError unless it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return float(value)


def features(layer: nn.Module, inputs: bool = False) -> int:
    """Return how many features, or channels, a layer puts out or takes in."""
    if isinstance(layer, nn.Linear):
        return layer.in_features if inputs else layer.out_features
    assert isinstance(layer, nn.Conv2d)
    return layer.in_channels if inputs else layer.out_channels
