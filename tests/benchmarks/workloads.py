"""What is run: lists of trials, whom the sweep is compared with on them, and the ratios that it is to reach."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeper.grid import load_grid
from sweeper.spec import TrainArgs, TrialSpec
from sweeper.strategies import find_strategy, hparams_of
from sweeper.trial import check_all

ALL = 10**9


@dataclass(frozen=True)
class Against:
    """One that the sweep is compared with.

    Attributes:
        most: How many of the trials it runs at most, spread evenly; its time is taken a trial.
        target: The ratio that is to be reached.
    """

    most: int = ALL
    target: float | None = None


@dataclass(frozen=True)
class Workload:
    """A list of trials.

    Attributes:
        what: In one line.
        specs: From whether it is to be quick to the trials.
        against: Name in `tests.benchmarks.contenders.CONTENDERS` -> how it is compared.
        how: Arguments of `sweeper.tune.launch`.
    """

    what: str
    specs: Callable[[bool], list[TrialSpec]]
    against: Mapping[str, Against]
    how: Mapping[str, Any] = field(default_factory=dict)


def grid(
    model: str,
    task: str,
    n_train: int,
    strategy: str,
    train: Mapping[str, Any],
    seeds: Sequence[int] = (0,),
    **hparams: Sequence[Any],
) -> list[TrialSpec]:
    """Return every combination; what is a list in ``train`` is swept, and all that is in ``hparams``."""
    swept = {key: value for key, value in train.items() if isinstance(value, list)}
    held = {key: value for key, value in train.items() if key not in swept}
    specs = []
    for values in itertools.product(*hparams.values()):
        complete = hparams_of(find_strategy(strategy)(**dict(zip(hparams, values, strict=True))))
        for rates in itertools.product(*swept.values()):
            args = TrainArgs(**held, **dict(zip(swept, rates, strict=True)))
            specs += [TrialSpec(model, task, n_train, strategy, complete, args, seed) for seed in seeds]
    return specs


def no_ops(number: int) -> list[TrialSpec]:
    """Return trials that do nothing, no two alike."""
    return grid("mlp", "no_op", 10, "no_op", {"lr": [1e-3 * (1 + i / 1024) for i in range(number)], "steps": 1})


def cheapest(number: int) -> list[TrialSpec]:
    """Return the cheapest real trials: a head of the smallest network, one step on ten rows."""
    rates = [1e-3 * (1 + i / 1024) for i in range(number)]
    return grid("mlp", "digits_shifted", 10, "feature_extraction", {"lr": rates, "steps": 1, "batch_size": 10})


RATES = [1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 6e-2, 1e-1, 3e-1]
DECAYS = [0.0, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]


def heads(model: str, task: str, n_train: int, batch_size: int, quick: bool) -> list[TrialSpec]:
    """Return 8 rates x 8 decays of a fresh head, for 10 epochs."""
    epochs, some = (1, 2) if quick else (10, 8)
    steps = epochs * -(-n_train // batch_size)
    train = {"lr": RATES[-some:], "weight_decay": DECAYS[:some], "steps": steps, "batch_size": batch_size}
    return grid(model, task, n_train, "feature_extraction", train)


def lora_grid(quick: bool) -> list[TrialSpec]:
    """Return 4 ranks x 4 rates x 3 seeds of LoRA on the tiny transformer."""
    ranks, rates, seeds, steps = ([1, 4], [1e-2], [0], 12) if quick else ([1, 2, 4, 8], RATES[1:5], [0, 1, 2], 120)
    train = {"lr": rates, "steps": steps}
    return grid("tiny_transformer", "digits_shifted", 100, "lora", train, seeds, rank=ranks)


def encoder(quick: bool) -> list[TrialSpec]:
    """Return 4 trials of LoRA on an encoder of 22 M parameters, where the machine computes all the time."""
    train = {"lr": [1e-3, 3e-3] if quick else [3e-4, 1e-3, 3e-3, 1e-2], "steps": 2 if quick else 5, "batch_size": 16}
    return grid("minilm", "film_reviews", 32 if quick else 200, "lora", train)


def strategies(quick: bool) -> list[TrialSpec]:
    """Return the first seed of the shipped grid `strategies` on the two smallest networks."""
    chosen = [spec for spec in load_grid("strategies").trials if spec.model in ("mlp", "small_cnn") and spec.seed == 0]
    kept, _ = check_all([spec for spec in chosen if spec.task == "digits_shifted"], lenient=True)
    return kept[:: len(kept) // 2] if quick else kept


BY_HAND = {"loop by hand": Against(), "loop by hand, all threads": Against()}

WORKLOADS: dict[str, Workload] = {
    "no_op": Workload(
        "trials that train nothing",
        lambda quick: no_ops(16 if quick else 256),
        {
            "unpacked": Against(),
            "Ray Tune default": Against(most=8),
            "Ray Tune tuned": Against(),
            "Ray Tune tuned, loop by hand": Against(target=10),
            "sequential": Against(),
            "Optuna, process pool": Against(),
        },
    ),
    "heads": Workload(
        "a head on a frozen small_cnn, 8 rates x 8 weight decays, 10 epochs of 100 rows",
        lambda quick: heads("small_cnn", "digits_shifted", 100, 32, quick),
        {
            "unpacked": Against(),
            "Ray Tune default": Against(most=16),
            "Ray Tune tuned": Against(target=50),
            "Ray Tune tuned, loop by hand": Against(target=50),
            "sequential": Against(),
            "sequential, all threads": Against(),
            **BY_HAND,
            "loop by hand, features once": Against(),
            "Optuna, process pool": Against(),
        },
    ),
    "heads_minilm": Workload(
        "a head on a frozen encoder of 22 M parameters, 8 rates x 8 weight decays, 10 epochs of 200 rows",
        lambda quick: heads("minilm", "film_reviews", 32 if quick else 200, 16, quick),
        {
            "Ray Tune tuned": Against(most=4, target=50),
            "Ray Tune tuned, loop by hand": Against(most=4, target=50),
            "loop by hand": Against(most=4),
            "loop by hand, all threads": Against(most=4),
            "loop by hand, features once": Against(),
        },
    ),
    "lora_grid": Workload(
        "LoRA on tiny_transformer, 4 ranks x 4 rates x 3 seeds, 120 steps",
        lora_grid,
        {
            "unpacked": Against(),
            "Ray Tune default": Against(target=20),
            "Ray Tune tuned": Against(target=4),
            "Ray Tune tuned, loop by hand": Against(target=4),
            "sequential": Against(target=3),
            "sequential, all threads": Against(target=3),
            **BY_HAND,
            "Optuna, process pool": Against(),
        },
    ),
    "encoder": Workload(
        "LoRA on an encoder of 22 M parameters, 4 rates, 5 steps",
        encoder,
        {"unpacked": Against(target=0.98), "Ray Tune tuned": Against(), "loop by hand": Against()},
    ),
    "strategies": Workload(
        "the grid `strategies`, mlp and small_cnn, one seed",
        strategies,
        {"unpacked": Against(), "Ray Tune tuned": Against(), "sequential": Against()},
    ),
}
