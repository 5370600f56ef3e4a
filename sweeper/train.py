"""The training loop: one pack of trials, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from sweeper.members import member_of
from sweeper.metrics import METRICS
from sweeper.models.base import LoadedModel, generators
from sweeper.optim import MemberAdamW
from sweeper.spec import TrainArgs
from sweeper.strategies.base import Stage, Strategy
from sweeper.tasks.base import Split

CURVE_POINTS = 6
EVAL_ROWS = 512


@dataclass
class Trained:
    """What training measured of one member."""

    curve: list[dict[str, float]] = field(default_factory=list)
    train_seconds: float = 0.0
    trainable_params: int = 0
    diverged: str | None = None
    """One line on the first loss, or the weights, that were not finite."""


def batches(n: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled row numbers, batch after batch, without end.

    Every row appears once in each pass over the data; the last batch of a pass may be short.

    Yields:
        Row numbers of shape ``(batch,)``, at most ``batch_size`` of them.
    """
    while True:
        yield from torch.randperm(n, generator=rng).split(batch_size)


def schedule(step: int, train: TrainArgs) -> float:
    """Return the factor on the learning rate at a step, counted from 0."""
    warmup = max(1, round(train.warmup * train.steps))
    if step < warmup:
        return (step + 1) / warmup
    return (train.steps - step) / max(1, train.steps - warmup)


def stage_steps(shares: float, done: int, steps: int) -> int:
    """Return how many steps a stage has whose end lies at ``shares`` of the budget."""
    return round(shares * steps) - done


def predict(model: LoadedModel, splits: Sequence[Split]) -> list[list[int]]:
    """Return each member's predicted classes on its own split; all splits have the same length."""
    device = next(model.network.parameters()).device
    rows = max(1, EVAL_ROWS // len(splits))
    parts = []
    # Scored rows must not enter running statistics, nor be dropped out.
    training = [module for module in model.network.modules() if module.training]
    model.network.eval()
    with torch.inference_mode():
        for start in range(0, len(splits[0]), rows):
            x = torch.cat([split.x[start : start + rows] for split in splits])
            parts.append(model.logits(x.to(device)).argmax(-1).cpu())
    for module in training:
        module.training = True
    return torch.cat(parts, dim=1).tolist()


def score(metric: str, model: LoadedModel, splits: Sequence[Split]) -> list[float]:
    """Return each member's score on its own split."""
    compute = METRICS[metric].compute
    assert compute is not None
    return [
        compute(split.y.tolist(), predicted) for split, predicted in zip(splits, predict(model, splits), strict=True)
    ]


def optimizer_for(model: LoadedModel, stage: Stage, trains: Sequence[TrainArgs]) -> MemberAdamW:
    """Return an optimizer for what trains now, each member at its own rate times the stage's factor."""
    lr = torch.tensor([train.lr for train in trains])
    decay = torch.tensor([train.weight_decay for train in trains])
    paths = sorted(stage.rates, key=len, reverse=True)
    rates, decays = {}, {}
    for name, p in model.trainable().items():
        path = next((path for path in paths if path in ("", name) or name.startswith(f"{path}.")), None)
        factor = torch.ones_like(lr) if path is None else torch.tensor(stage.rates[path])
        member = member_of(name)
        rates[p] = lr * factor if member is None else (lr * factor)[member]
        decays[p] = decay if member is None else decay[member]
    return MemberAdamW(rates, decays)


def train_pack(
    model: LoadedModel,
    strategies: Sequence[Strategy],
    trains: Sequence[TrainArgs],
    train_splits: Sequence[Split],
    valid_splits: Sequence[Split],
    metric: str,
) -> list[Trained]:
    """Train all members together and return what was measured of each; the model is changed in place.

    Args:
        model: A frozen network; it has one seed for each member.
        strategies: One a member, all of one class, alike but for the fields in ``per_member``.
        trains: One a member, alike but for ``lr`` and ``weight_decay``.
        train_splits: One a member, all of one length; each member draws its own order.
        valid_splits: Scored at each point of the curve.
        metric: Name of the score.
    """
    device = next(model.network.parameters()).device
    train = trains[0]
    trained = [Trained() for _ in trains]
    orders = [
        batches(len(split), train.batch_size, rng)
        for split, rng in zip(train_splits, generators(model.seeds, "order"), strict=True)
    ]
    points = {round(train.steps * (i + 1) / CURVE_POINTS) for i in range(CURVE_POINTS)}
    losses: list[Tensor] = []
    ever_trained: dict[int, Parameter] = {}
    step, shares, seconds, first_seconds = 0, 0.0, 0.0, 0.0

    for stage in strategies[0].adapt(model, strategies):
        model.network.to(device)
        optimizer = optimizer_for(model, stage, trains)
        ever_trained.update({id(p): p for p in model.trainable().values()})
        shares += stage.share
        for _ in range(stage_steps(shares, step, train.steps)):
            started = time.perf_counter()
            picks = [next(order) for order in orders]
            x = torch.cat([split.x[pick] for split, pick in zip(train_splits, picks, strict=True)])
            y = torch.stack([split.y[pick] for split, pick in zip(train_splits, picks, strict=True)])
            logits = model.logits(x.to(device))
            loss = F.cross_entropy(logits.flatten(0, 1), y.to(device).flatten(), reduction="none")
            loss = loss.view(y.shape).mean(1)
            loss.sum().backward()
            optimizer.step(schedule(step, train))
            losses.append(loss.detach())
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            elapsed = time.perf_counter() - started
            first_seconds = first_seconds or elapsed
            seconds += elapsed
            step += 1
            if step in points:
                _add_point(
                    trained, step, seconds / len(trained), torch.stack(losses), score(metric, model, valid_splits)
                )
                losses.clear()

    # The first step also pays for allocation and kernel choice: count it as an average one.
    if step > 1:
        seconds = (seconds - first_seconds) * step / (step - 1)
    finite = _all_finite(model, len(trained))
    for k, member in enumerate(trained):
        member.train_seconds = seconds / len(trained)
        member.trainable_params = model.params_of(k, ever_trained.values())
        if not finite[k] and not member.diverged:
            member.diverged = f"the weights were not finite after step {step}"
    return trained


def _all_finite(model: LoadedModel, members: int) -> list[bool]:
    """Return for each member whether all its trained weights are finite: the last update has no loss after it."""
    finite = torch.ones(members, dtype=torch.bool)
    for name, p in model.trainable().items():
        member = member_of(name)
        mine = p.detach().isfinite().reshape(1 if member is not None else members, -1).all(1).cpu()
        finite[slice(None) if member is None else slice(member, member + 1)] &= mine
    return finite.tolist()


def _add_point(trained: list[Trained], step: int, seconds: float, losses: Tensor, scores: list[float]) -> None:
    """Add a point to each member's curve; ``losses (steps, members)`` are those since the last point."""
    for member, own, valid in zip(trained, losses.T.tolist(), scores, strict=True):
        if member.diverged:
            continue
        for offset, value in enumerate(own):
            if not math.isfinite(value):
                member.diverged = f"the training loss was {value} at step {step - len(own) + offset + 1}"
                break
        else:
            member.curve.append(
                {"step": step, "seconds": seconds, "train_loss": sum(own) / len(own), "valid_score": valid}
            )
