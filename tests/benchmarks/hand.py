"""The same trials by hand: what one writes without a sweeper, and nothing measured but the scores.

The loops start from the very weights, heads, rows and orders of rows that `sweeper` takes, so that their
scores can be compared; what is loaded is loaded once for all trials of a model, a task and a seed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.models.base import LoadedModel, generators
from sweeper.spec import TrainArgs, TrialSpec
from sweeper.tasks import TaskData
from sweeper.trial import untrained

Scores = Mapping[str, float]
EVAL_ROWS = 512


def run(spec: TrialSpec) -> Scores:
    """Train one trial and return its scores."""
    return LOOPS[spec.strategy](spec)


def head(spec: TrialSpec) -> Scores:
    """Train a fresh head on a frozen network that runs in each step."""
    model, data = loaded(spec)
    network = copy.deepcopy(model.network)
    trained = fresh_head(network, model, spec.seed)
    return train(network, trained, spec, data)


def head_on_features(spec: TrialSpec) -> Scores:
    """Train a fresh head on features that were computed once for all trials."""
    model, data = features(spec.model, spec.task, spec.n_train, spec.seed)
    network = nn.Sequential(copy.deepcopy(model.get(model.head)))
    trained = fresh_head(network, LoadedModel(network, "0", (), (), {}), spec.seed)
    return train(network, trained, spec, data)


def lora(spec: TrialSpec) -> Scores:
    """Train low-rank updates beside all linear layers, and the head where it is fresh."""
    model, data = loaded(spec)
    network = copy.deepcopy(model.network)
    hparams: Mapping[str, Any] = spec.hparams
    (rng,) = generators([spec.seed], "lora")
    trained = []
    for path in model.targets(hparams["targets"]):
        parent, _, name = path.rpartition(".")
        layer = LoraLinear(network.get_submodule(path), hparams["rank"], hparams["alpha"], rng)
        setattr(network.get_submodule(parent), name, layer)
        trained += [layer.a, layer.b]
    if model.head_is_fresh:
        trained += fresh_head(network, model, spec.seed)
    return train(network, trained, spec, data)


class LoraLinear(nn.Module):
    """A frozen linear layer and a low-rank update (arXiv 2106.09685, section 4.1)."""

    def __init__(self, base: nn.Module, rank: int, alpha: float, rng: torch.Generator) -> None:
        super().__init__()
        assert isinstance(base, nn.Linear)
        bound = base.in_features**-0.5
        self.base, self.scale = base, alpha / rank
        self.a = nn.Parameter(torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=rng))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        outputs: Tensor = self.base(x) + self.scale * F.linear(F.linear(x, self.a), self.b)
        return outputs


LOOPS: dict[str, Callable[[TrialSpec], Scores]] = {
    "feature_extraction": head,
    "lora": lora,
    "no_op": lambda spec: {},
}


def train(network: nn.Module, trained: list[nn.Parameter], spec: TrialSpec, data: TaskData) -> Scores:
    """Train, and score on the validation and test rows."""
    rows, args = data.splits["train"], spec.train
    (rng,) = generators([spec.seed], "order")
    order = batches(len(rows), args.batch_size, rng)
    started = time.perf_counter()
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=args.weight_decay)
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate(step, args)
        pick = next(order)
        optimizer.zero_grad()
        F.cross_entropy(network(rows.x[pick]), rows.y[pick]).backward()
        optimizer.step()
    seconds = time.perf_counter() - started
    valid, test = (logits(network, data.splits[name].x) for name in ("valid", "test"))
    return {
        "valid_score": accuracy(valid, data.splits["valid"].y),
        "test_score": accuracy(test, data.splits["test"].y),
        "valid_loss": float(F.cross_entropy(valid, data.splits["valid"].y)),
        "train_seconds": seconds,
    }


def batches(n: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled row numbers without end."""
    while True:
        yield from torch.randperm(n, generator=rng).split(size)


def rate(step: int, args: TrainArgs) -> float:
    """Return the factor on the rate: up linearly, then down to zero."""
    warmup = max(1, round(args.warmup * args.steps))
    return (step + 1) / warmup if step < warmup else (args.steps - step) / max(1, args.steps - warmup)


@torch.inference_mode()
def logits(network: nn.Module, x: Tensor) -> Tensor:
    """Return what a network puts out for all rows."""
    return torch.cat([network(part) for part in x.split(EVAL_ROWS)])


def accuracy(outputs: Tensor, y: Tensor) -> float:
    """Return the share of rows whose class is right."""
    return float((outputs.argmax(1) == y).double().mean())


def fresh_head(network: nn.Module, model: LoadedModel, seed: int) -> list[nn.Parameter]:
    """Draw the head's weights anew, let them train, and return them."""
    (rng,) = generators([seed], "head")
    found: list[nn.Parameter] = []
    for path in (model.head, *model.before_head):
        layer = network.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        bound = layer.in_features**-0.5
        for p in (layer.weight, layer.bias):
            nn.init.uniform_(p, -bound, bound, generator=rng)
            assert isinstance(p, nn.Parameter)
            found.append(p)
            p.requires_grad_(True)
    return found


def loaded(spec: TrialSpec) -> tuple[LoadedModel, TaskData]:
    """Return the frozen network that a trial starts from, and its rows."""
    return _loaded(spec.model, spec.task, spec.n_train, spec.seed)


@lru_cache(maxsize=8)
def _loaded(model: str, task: str, n_train: int, seed: int) -> tuple[LoadedModel, TaskData]:
    return untrained(TrialSpec(model, task, n_train, "full", {}, TrainArgs(), seed), [seed])


@lru_cache(maxsize=8)
def features(model_name: str, task: str, n_train: int, seed: int) -> tuple[LoadedModel, TaskData]:
    """Return what the head reads, for each row: the rows of a task whose inputs are features."""
    model, data = _loaded(model_name, task, n_train, seed)
    if model.before_head:
        raise ValueError(f"{model_name} has more than its head to train")
    splits = {}
    for name in ("train", "valid", "test"):
        split = data.splits[name]
        with torch.inference_mode():
            parts = [model.features_and_logits(x)[0][0] for x in split.x.split(64)]
        splits[name] = type(split)(torch.cat(parts).clone(), split.y)
    return model, TaskData(splits, data.n_classes)


def forget() -> None:
    """Forget what was loaded: the next run loads it anew."""
    _loaded.cache_clear()
    features.cache_clear()
