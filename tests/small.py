"""Small specs and packs on real rows, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sweeper.models import LoadedModel, find_model
from sweeper.models.base import NotApplicableError
from sweeper.spec import Status, TrainArgs, TrialResult, TrialSpec
from sweeper.strategies import STRATEGIES, Strategy, hparams_of
from sweeper.tasks import TASKS, Split, TaskData
from sweeper.train import Stop, Trained, train_pack

TASK = "digits_shifted"

# Per strategy, settings of members that may share a pack: they differ in every per-member field.
MEMBERS: dict[str, list[dict[str, Any]]] = {
    "full": [{}, {}, {}],
    "feature_extraction": [{}, {}, {}],
    "partial_unfreeze": [{"backbone_rate": 0.2}, {"backbone_rate": 1.0}, {"backbone_rate": 0.05}],
    "gradual_unfreeze": [{}, {}, {}],
    "probe_then_full": [{"full_rate": 0.1}, {"full_rate": 1.0}, {"full_rate": 0.3}],
    "bitfit": [{}, {}, {}],
    "norm_tuning": [{}, {}, {}],
    "ia3": [{}, {}, {}],
    "prompt_tuning": [{"virtual_tokens": 4}] * 3,
    "p_tuning": [{"virtual_tokens": 4, "hidden": 16}] * 3,
    "prefix_tuning": [{"virtual_tokens": 4}] * 3,
    "domain_adaptation": [{"align": "coral", "align_weight": weight} for weight in (1.0, 100.0, 0.1)],
    "lora": [
        {"rank": 1},
        {"rank": 8, "alpha": 4.0, "scaling": "rslora", "init": "pissa"},
        {"rank": 3, "b_rate": 4.0, "dropout": 0.2},
    ],
    "qlora": [{"rank": 1}, {"rank": 8, "alpha": 4.0}, {"rank": 3, "dropout": 0.2}],
    "adapter": [{"bottleneck": 2}, {"bottleneck": 8, "scale": 4.0}, {"bottleneck": 5}],
}
# Model -> strategies that make no sense on it; the tests see that these, and only these, are refused.
OF_TEXTS = {"prompt_tuning", "p_tuning", "prefix_tuning"}
LEFT_OUT: dict[str, set[str]] = {
    "mlp": {"ia3", "norm_tuning", *OF_TEXTS},
    "small_cnn": {"ia3", "norm_tuning", *OF_TEXTS},
    "tiny_transformer": set(),
}
# The same for the families of transformers in `tests.families`.
LEFT_OUT_OF_FAMILIES: dict[str, set[str]] = {
    "bert": set(),
    "roberta": set(),
    "distilbert": {"prefix_tuning"},  # it takes no keys and values from before
    "gpt2": set(),
    "llama": {"bitfit"},  # it has no biases
    "t5": {"prefix_tuning"},
    "vit": OF_TEXTS,
}

# Strategies that no plain network can compute.
STAYS_BESIDE = {"adapter", *OF_TEXTS}

# Strategies that do not start at the loaded function: virtual tokens are seen from the first step on.
STARTS_ELSEWHERE = OF_TEXTS

# What a short run learns at, where that is not 1e-2.
LEARNS_AT = {"bitfit": 3e-2, "ia3": 3e-2, "prompt_tuning": 1e-1, "p_tuning": 3e-3, "prefix_tuning": 1e-1}

# Strategies that quantise the frozen base, and so start near the loaded function and cannot go back to it.
QUANTISE = {"qlora"}

# Strategy -> a package that is not installed with the project and without which its tests are skipped.
NEEDS = {"qlora": "bitsandbytes"}

RATES = (3e-3, 1e-2, 1e-3)
DECAYS = (0.0, 0.1, 0.01)


def data(seed: int = 0, n_train: int = 40) -> TaskData:
    return TASKS[TASK].load(seed, n_train)


def model(name: str, seeds: Sequence[int], head_is_fresh: bool = False) -> LoadedModel:
    loaded = find_model(name)((1, 8, 8), 10, 0)
    loaded.seeds = tuple(seeds)
    loaded.head_is_fresh = head_is_fresh
    return loaded


def train_args(member: int, steps: int = 6) -> TrainArgs:
    return TrainArgs(lr=RATES[member], weight_decay=DECAYS[member], batch_size=16, steps=steps)


def train_some(
    name: str,
    strategy: str,
    members: Sequence[int],
    seeds: Sequence[int],
    stop: Stop | None = None,
    kept: tuple[Path, Sequence[str]] | None = None,
    **shared: Any,
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
        {"source_train": rows.splits["source_train"]},
        stop,
        kept,
    )
    return loaded, trained


def strategies(name: str, members: Sequence[int], **shared: Any) -> list[Strategy]:
    return [STRATEGIES[name](**{**MEMBERS[name][k], **shared}) for k in members]


def check_refused(loaded: LoadedModel, strategy: str) -> None:
    """See that a strategy says why it makes no sense on a model, and leaves the model as it was."""
    before = {name: p.clone() for name, p in loaded.network.state_dict().items()}
    (chosen,) = strategies(strategy, [0])
    with pytest.raises(NotApplicableError, match=f"^{strategy} does not apply: "):
        next(chosen.adapt(loaded, [chosen]))
    after = loaded.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def check_what_is_added(build: Callable[[Sequence[int]], LoadedModel], x: Tensor, chosen: Sequence[Strategy]) -> None:
    """See that what strategies add starts at the loaded function, learns, packs, switches off and merges."""
    members = len(chosen)
    seeds = range(members)
    before = build([0]).network(x)
    fresh = build(seeds)
    next(chosen[0].adapt(fresh, chosen))
    start = fresh.logits(torch.cat([x] * members))
    torch.testing.assert_close(start, before.expand_as(start), rtol=1e-5, atol=1e-6)

    split = Split(x, torch.arange(len(x)) % before.shape[-1])
    args = [train_args(1, steps=12)] * members

    def trained_on(numbers: Sequence[int]) -> LoadedModel:
        loaded = build([seeds[k] for k in numbers])
        some, rows = [chosen[k] for k in numbers], [split] * len(numbers)
        for member in train_pack(loaded, some, args[: len(numbers)], rows, rows, "accuracy"):
            assert member.curve[-1]["train_loss"] < member.curve[0]["train_loss"]
        return loaded

    pack = trained_on(range(members))
    packed = pack.logits(torch.cat([x] * members))
    for k in range(members):
        assert not torch.allclose(packed[k], before, atol=1e-3)
        torch.testing.assert_close(packed[k], trained_on([k]).logits(x)[0], rtol=1e-3, atol=1e-4)
        merged = pack.merged(k)
        assert (merged is None) == (chosen[0].name in STAYS_BESIDE)
        if merged is not None:
            torch.testing.assert_close(merged(x), packed[k], rtol=1e-4, atol=1e-5)
            assert list(merged.state_dict()) == list(build([0]).network.state_dict())
    assert pack.can_switch_off
    pack.switch(False)
    assert torch.equal(pack.network(x), before)


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
