"""Small specs and packs on real rows, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeper.models import MODELS, LoadedModel
from sweeper.spec import Status, TrainArgs, TrialResult, TrialSpec
from sweeper.strategies import STRATEGIES, Strategy, hparams_of
from sweeper.tasks import TASKS, TaskData
from sweeper.train import Trained, train_pack

TASK = "digits_shifted"

# Per strategy, settings of members that may share a pack: they differ in every per-member field.
MEMBERS: dict[str, list[dict[str, Any]]] = {
    "full": [{}, {}, {}],
    "feature_extraction": [{}, {}, {}],
    "partial_unfreeze": [{"backbone_rate": 0.2}, {"backbone_rate": 1.0}, {"backbone_rate": 0.05}],
    "gradual_unfreeze": [{}, {}, {}],
    "probe_then_full": [{"full_rate": 0.1}, {"full_rate": 1.0}, {"full_rate": 0.3}],
    "bitfit": [{}, {}, {}],
    "lora": [
        {"rank": 1},
        {"rank": 8, "alpha": 4.0, "scaling": "rslora", "init": "pissa"},
        {"rank": 3, "b_rate": 4.0, "dropout": 0.2},
    ],
    "qlora": [{"rank": 1}, {"rank": 8, "alpha": 4.0}, {"rank": 3, "dropout": 0.2}],
    "adapter": [{"bottleneck": 2}, {"bottleneck": 8}, {"bottleneck": 5}],
}
# Model -> strategies that make no sense on it; the tests see that these, and only these, are refused.
LEFT_OUT: dict[str, set[str]] = {"mlp": set(), "small_cnn": set(), "tiny_transformer": set()}

# Strategies that no plain network can compute.
STAYS_BESIDE = {"adapter"}

# Strategies that quantise the frozen base, and so start near the loaded function and cannot go back to it.
QUANTISE = {"qlora"}

# Strategy -> a package that is not installed with the project and without which its tests are skipped.
NEEDS = {"qlora": "bitsandbytes"}

RATES = (3e-3, 1e-2, 1e-3)
DECAYS = (0.0, 0.1, 0.01)


def data(seed: int = 0, n_train: int = 40) -> TaskData:
    return TASKS[TASK].load(seed, n_train)


def model(name: str, seeds: Sequence[int], head_is_fresh: bool = False) -> LoadedModel:
    loaded = MODELS[name]((1, 8, 8), 10, 0)
    loaded.seeds = tuple(seeds)
    loaded.head_is_fresh = head_is_fresh
    return loaded


def train_args(member: int, steps: int = 6) -> TrainArgs:
    return TrainArgs(lr=RATES[member], weight_decay=DECAYS[member], batch_size=16, steps=steps)


def train_some(
    name: str, strategy: str, members: Sequence[int], seeds: Sequence[int], **shared: Any
) -> tuple[LoadedModel, list[Trained]]:
    """Train the members of these numbers, in one pack, on a few real rows; ``shared`` fields are all of theirs."""
    loaded = model(name, seeds)
    rows = data()
    trained = train_pack(
        loaded,
        strategies(strategy, members, **shared),
        [train_args(k) for k in members],
        [rows.splits["train"]] * len(members),
        [rows.splits["valid"]] * len(members),
        "accuracy",
    )
    return loaded, trained


def strategies(name: str, members: Sequence[int], **shared: Any) -> list[Strategy]:
    return [STRATEGIES[name](**{**MEMBERS[name][k], **shared}) for k in members]


def spec(strategy: str = "lora", seed: int = 0, lr: float = 1e-2, **hparams: Any) -> TrialSpec:
    complete = hparams_of(STRATEGIES[strategy](**hparams))
    return TrialSpec("mlp", TASK, 40, strategy, complete, TrainArgs(lr=lr, batch_size=16, steps=6), seed)


def row(valid: float = 0.5, test: float = 0.5, when: str = "2026-01-01", **spec_args: Any) -> TrialResult:
    """A row for tests of what reads rows; no test of what is measured uses it."""
    return TrialResult(
        spec(**spec_args),
        Status.COMPLETE,
        metrics={
            "valid_score": valid,
            "test_score": test,
            "untouched_test_score": 0.4,
            "untouched_source_test_score": 0.8,
            "trainable_params": 100.0,
            "total_params": 1000.0,
            "train_seconds": 0.1,
            "peak_memory_bytes": 1e6,
        },
        curve=({"step": 6, "seconds": 0.1, "train_loss": 1.0, "valid_score": valid},),
        context={"modality": "image", "metric": "accuracy", "model_params": 1000, "memory_kind": "resident_set"},
        provenance={"recorded_at": when},
    )
