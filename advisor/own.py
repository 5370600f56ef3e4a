"""The user's own rows and a model for them, in place of answers: what can be read off them is not asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sweeper.models.language import MAX_ANSWER, MAX_PROMPT
from sweeper.models.tokens import MAX_TOKENS
from sweeper.own_data import defaults, own_data
from sweeper.spec import Json, TrainArgs, TrialSpec
from sweeper.strategies import find_strategy, hparams_of
from sweeper.tasks.columns import Asked
from sweeper.tasks.rows import sizes_of
from sweeper.trial import described
from sweeper.work import GENERATION


@dataclass(frozen=True)
class Place:
    """Where trials run: all of a trial but the strategy, its learning rate and the seed.

    Attributes:
        steps: Of the optimizer, where time does not press.
        rates: Learning rates to search; ``None`` where each strategy's own are.
    """

    model: str
    task: str
    n_train: int
    batch_size: int
    steps: int
    rates: tuple[float, ...] | None = None

    def trial(
        self, strategy: str, hparams: dict[str, Any], lr: float, steps: int | None = None, seed: int = 0
    ) -> TrialSpec:
        """Return a trial here; hyperparameters that are not given have their defaults."""
        complete: dict[str, Json] = hparams_of(find_strategy(strategy)(**hparams))
        train = TrainArgs(lr=lr, batch_size=self.batch_size, steps=steps or self.steps)
        return TrialSpec(self.model, self.task, self.n_train, strategy, complete, train, seed)


@dataclass(frozen=True)
class OwnRows:
    """A user's rows, prepared, and a model for them.

    Attributes:
        asked: Where they are, and how they are to be understood.
        n_train: The whole training pool.
        work: Classification, regression, tagging or generation.
        inputs, label: The columns.
        seq_len: Tokens at which trials cut texts; ``None`` for other rows.
        place: Training on all of it, with settings that suit the rows and the model.
    """

    asked: Asked
    n_train: int
    modality: str
    work: str
    inputs: tuple[str, ...]
    label: str | None
    model_params: int
    seq_len: int | None
    place: Place

    @property
    def data(self) -> str:
        """The data as the user named it."""
        return self.asked.data

    def on(self, n_train: int | None) -> Place:
        """Return the place with so many of the rows.

        Raises:
            ValueError: there are not so many.
        """
        if n_train is not None and n_train > self.n_train:
            raise ValueError(
                f"--n-train {n_train:,} is more than the {self.n_train:,} training rows of {self.data}: leave it out, "
                "or bring more rows"
            )
        return replace(self.place, n_train=n_train or self.n_train)

    def in_a_line(self) -> str:
        """Return what was found."""
        return (
            f"{self.data}: {self.n_train:,} training rows, {self.modality}; {self.place.model} has "
            f"{self.model_params:,} parameters. Another: --model, --n-train."
        )


def read(data: str, model: str | None, columns: dict[str, Any]) -> OwnRows:
    """Return a user's rows and the model for them: the named one, else the default for such rows.

    Raises:
        ValueError: the data cannot be used, there is no such model, or it cannot read such rows.
    """
    asked = Asked(data, **columns)
    own = own_data(asked, (model,) if model else ())
    task, (name,) = own.prepared.task, own.models
    n_train, train = sizes_of(own.prepared.rows)[0], defaults(own.prepared, name)
    rates = None if train["lr"] == "space" else tuple(train["lr"])
    place = Place(name, task, n_train, train["batch_size"], train["steps"], rates)
    params, modality = described(place.trial("full", {}, 1e-3))
    report = own.prepared.report
    inputs, label = tuple(map(str, report["inputs"])), report["label"]
    work = report["work"]
    seq_len = None if modality != "text" else MAX_PROMPT + MAX_ANSWER if work == GENERATION else MAX_TOKENS
    return OwnRows(asked, n_train, modality, work, inputs, label, params, seq_len, place)
