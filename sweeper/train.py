"""The training loop: one pack of trials, top to bottom."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import Parameter

from sweeper import checkpoint
from sweeper.answers import Predicted, predict
from sweeper.draws import Draws
from sweeper.flops import FlopCounter
from sweeper.leave import smaller
from sweeper.members import member_of
from sweeper.metrics import METRICS
from sweeper.models.base import LoadedModel
from sweeper.optim import MemberAdamW
from sweeper.prefix import find_prefix
from sweeper.spec import TrainArgs
from sweeper.strategies.base import Stage, Strategy, check_needs
from sweeper.tasks.base import Split

CURVE_POINTS = 6


@dataclass
class Trained:
    """What training measured of one member."""

    curve: list[dict[str, float]] = field(default_factory=list)
    train_seconds: float = 0.0
    step_durations: list[float] = field(default_factory=list)
    """Of each step, in seconds, of the whole pack."""
    step_seconds: float = 0.0
    """The median of these."""
    train_flops: int = 0
    kept_blocks: int = 0
    """Blocks that the last stage did not compute, because what they put out was kept (`sweeper.prefix`)."""
    trainable_params: int = 0
    total_params: int = 0
    saved_bytes: int = 0
    diverged: str | None = None
    """One line on the first loss, or the weights, that were not finite."""
    stopped: str | None = None
    """One line on why it was not trained to the end."""
    left: bool = False
    """Whether it diverged or was stopped at a point of the curve before the last."""
    place: int | None = None
    """Where in the trained pack it is; ``None`` if the pack became smaller when it left."""


def schedule(step: int, train: TrainArgs) -> float:
    """Return the factor on the learning rate at a step, counted from 0."""
    warmup = max(1, round(train.warmup * train.steps))
    if step < warmup:
        return (step + 1) / warmup
    return (train.steps - step) / max(1, train.steps - warmup)


def stage_steps(shares: float, done: int, steps: int) -> int:
    """Return how many steps a stage has whose end lies at ``shares`` of the budget."""
    return round(shares * steps) - done


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


Stop = Callable[[int, Sequence[int], Sequence[float]], Mapping[int, str]]
"""From a step, the numbers of members and their scores on validation to those that are to leave, and why."""


def train_pack(
    model: LoadedModel,
    strategies: Sequence[Strategy],
    trains: Sequence[TrainArgs],
    train_splits: Sequence[Split],
    valid_splits: Sequence[Split],
    metric: str,
    others: Mapping[str, Split] = MappingProxyType({}),
    stop: Stop | None = None,
    kept: tuple[Path, Sequence[str]] | None = None,
) -> list[Trained]:
    """Train all members together and return what was measured of each; the model is changed in place.

    A member that diverges, or is stopped, leaves: from then on the model is a pack of the others (`Trained.place`).

    Args:
        model: A frozen network; it has one seed for each member.
        strategies: One a member, all of one class, alike but for the fields in ``per_member``.
        trains: One a member, alike but for ``lr`` and ``weight_decay``.
        train_splits: One a member, all of one length; each member draws its own order.
        valid_splits: Scored at each point of the curve.
        metric: Name of the score; empty for no curve.
        others: What a stage may draw from besides, the same for all members: "source_train", where there is one.
        stop: Asked at each point of the curve but the last; ``None``: nobody is stopped.
        kept: File of the checkpoint, from which training goes on where it is this pack's, and the members' trial ids.

    Raises:
        NotApplicableError: a stage needs rows that are not there.
    """
    device = next(model.network.parameters()).device
    train, base = trains[0], model.beside()
    trained = [Trained(place=k) for k in range(len(trains))]
    here = [*range(len(trains))]  # the members in the model, whether or not they still count
    splits = {"train": train_splits, **{name: [split] * len(trains) for name, split in others.items()}}
    draw = Draws(splits, train.batch_size, model.seeds, device)
    points = {round(train.steps * (i + 1) / CURVE_POINTS) for i in range(CURVE_POINTS)} if metric else set()
    losses: list[Tensor] = []
    ever_trained: dict[int, Parameter] = {}
    step, shares, begun = 0, 0.0, 0
    stages = strategies[0].adapt(model, strategies)
    stage: Stage | None
    optimizer: MemberAdamW
    saved = None if kept is None else checkpoint.read(*kept)
    last_saved = time.monotonic()

    def go_on_without(stay: Sequence[int]) -> None:
        """Make the model a pack of the members in these places."""
        nonlocal optimizer, stages, stage, here, ever_trained
        chosen = [here[place] for place in stay]
        pack, to_come, same_stage = smaller(model, base, [strategies[k] for k in chosen], stay, begun)
        names = {p: name for one in (model, pack) for name, p in one.network.named_parameters()}
        own = dict(pack.network.named_parameters())
        after = optimizer_for(pack, same_stage, [trains[k] for k in chosen])
        optimizer.carry(after, stay, names)
        ever_trained = {id(p): p for p in _again(ever_trained.values(), names, own)}
        vars(model).update(vars(pack))
        optimizer, stages, stage, here = after, to_come, same_stage, chosen
        draw.keep(stay)
        for k, member in enumerate(trained):
            member.place = here.index(k) if k in here else None

    while (stage := next(stages, None)) is not None:
        begun += 1
        check_needs(strategies[0].name, stage, splits)
        model.network.to(device)
        optimizer = optimizer_for(model, stage, [trains[k] for k in here])
        ever_trained.update({id(p): p for p in model.trainable().values()})
        shares += stage.share
        end = step + stage_steps(shares, step, train.steps)
        if saved is not None and begun < saved.begun:
            step = end
            continue
        if saved is not None and kept is not None:
            try:
                if saved.here != here:
                    go_on_without(saved.here)
                losses = checkpoint.put_back(saved.tensors, model, optimizer)
            except ValueError as error:
                kept[0].unlink(missing_ok=True)
                raise ValueError(f"the checkpoint does not fit and is removed, launch again: {error}") from None
            optimizer.steps, step = saved.updates, saved.step
            trained = [Trained(**member) for member in saved.trained]
            for name, part, number in saved.drawn:
                draw.skip(name, part, number)
            saved = None
        while step < end:  # once, and once more after each time that members left
            draw.to_come = train.steps * train.batch_size * len(here)
            prefix = find_prefix(model, draw.splits["train"])
            # The first step counts FLOPs as if nothing were kept. With a cut at the head that is what the kept
            # part costs and what the head does; any other cut leaves something before it to be computed again.
            model.prefix = draw.prefix = prefix if prefix is not None and prefix.head else None
            if model.prefix is not None and draw.to_come >= len(train_splits[0]):
                for split in draw.splits["train"]:
                    model.prefix.of(split)
            draw.kept = {"train"}  # others would be computed, and counted, within the step
            durations: list[float] = []
            drawn, flops_per_row, counter = draw.rows, 0.0, FlopCounter()
            left: list[int] = []
            while step < end and not left:
                started = time.perf_counter()
                with contextlib.nullcontext() if durations else counter:
                    loss = stage.objective(model, draw)
                    loss.sum().backward()
                optimizer.step(schedule(step, train))
                losses.append(loss.detach())
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                durations.append(time.perf_counter() - started)
                if len(durations) == 1:
                    counted = counter.get_total_flops() + (0 if draw.prefix is None else draw.prefix.spared())
                    flops_per_row = counted / (draw.rows - drawn)
                    model.prefix, draw.prefix, draw.kept = prefix, prefix, {*draw.splits}
                step += 1
                if step in points:
                    some = [trained[k] for k in here]
                    found = predict(model, [valid_splits[k] for k in here])
                    _add_point(some, step, _seconds(durations) / len(here), torch.stack(losses), metric, found)
                    losses.clear()
                    if step < train.steps:
                        left = _leaving(trained, here, step, stop)
                if kept and not left and step < train.steps and time.monotonic() - last_saved > checkpoint.EVERY:
                    flops = flops_per_row * (draw.rows - drawn)
                    members = [asdict(_counted(m, durations, flops, len(here))) for m in trained]
                    batches_drawn = [(*what, number) for what, number in draw.drawn.items()]
                    tensors = checkpoint.tensors_of(model, base, optimizer, losses)
                    state = checkpoint.State(step, begun, here, members, batches_drawn, optimizer.steps, tensors)
                    checkpoint.write(*kept, state)
                    last_saved = time.monotonic()
            flops = flops_per_row * (draw.rows - drawn)
            trained = [_counted(member, durations, flops, len(here)) for member in trained]
            for place, k in enumerate(here):
                member = trained[k]
                if k in left:
                    _settle(member, model, place, ever_trained.values())
                    member.left = True
            if left:
                stay = [place for place, k in enumerate(here) if not trained[k].left]
                if not stay:
                    return trained
                with contextlib.suppress(ValueError):  # else those who left stay in it, and nobody counts them
                    go_on_without(stay)

    finite = _all_finite(model, len(here))
    for place, k in enumerate(here):
        member = trained[k]
        if member.left:
            continue
        _settle(member, model, place, ever_trained.values())
        if not finite[place] and not member.diverged:
            member.diverged = f"the weights were not finite after step {step}"
    return trained


def _counted(member: Trained, durations: Sequence[float], flops: float, members: int) -> Trained:
    """Return a member with its share of what some steps took."""
    if member.left:
        return member
    return replace(
        member,
        train_seconds=member.train_seconds + _seconds(durations) / members,
        step_durations=[*member.step_durations, *durations],
        train_flops=member.train_flops + round(flops / members),
    )


def _leaving(trained: Sequence[Trained], here: Sequence[int], step: int, stop: Stop | None) -> list[int]:
    """Return the members that leave at a point of the curve, each with its reason noted."""
    counted = [k for k in here if not trained[k].left]
    going = [k for k in counted if trained[k].diverged]
    going_on = [k for k in counted if k not in going]
    if stop is not None and going_on:
        scores = [trained[k].curve[-1]["valid_score"] for k in going_on]
        for k, reason in stop(step, going_on, scores).items():
            trained[k].stopped = reason
            going.append(k)
    return going


def _again(
    params: Collection[Parameter], names: Mapping[Parameter, str], own: Mapping[str, Parameter]
) -> list[Parameter]:
    """Return the same parameters of a smaller pack.

    Raises:
        ValueError: one of them is not in the network any more.
    """
    if any(p not in names for p in params):
        raise ValueError("a parameter that trained is in the network no more")
    # Of a copy for each member the smaller pack has fewer.
    return [own[names[p]] for p in params if names[p] in own]


def _settle(member: Trained, model: LoadedModel, place: int, ever_trained: Collection[Parameter]) -> None:
    """Note what is known of a member when it ends."""
    member.step_seconds = statistics.median(member.step_durations)
    member.kept_blocks = 0 if model.prefix is None else len(model.prefix.before)
    member.trainable_params = model.params_of(place, ever_trained)
    member.total_params = model.total_params(place)
    for size in {p.element_size() for p in ever_trained}:
        alike = [p for p in ever_trained if p.element_size() == size]
        member.saved_bytes += size * model.params_of(place, alike)


def _seconds(durations: Sequence[float]) -> float:
    """Return what steps took, the first counted as an average one.

    It also pays for allocation, kernel choice and the counting of FLOPs.
    """
    return len(durations) * statistics.fmean(durations[1:] or durations)


def _all_finite(model: LoadedModel, members: int) -> list[bool]:
    """Return for each member whether all its trained weights are finite: the last update has no loss after it."""
    finite = torch.ones(members, dtype=torch.bool)
    for name, p in model.trainable().items():
        member = member_of(name)
        mine = p.detach().isfinite().reshape(1 if member is not None else members, -1).all(1).cpu()
        finite[slice(None) if member is None else slice(member, member + 1)] &= mine
    return finite.tolist()


def _add_point(
    trained: list[Trained], step: int, seconds: float, losses: Tensor, metric: str, valid: Sequence[Predicted]
) -> None:
    """Add a point to each member's curve; ``losses (steps, members)`` are those since the last point."""
    compute = METRICS[metric].compute
    assert compute is not None
    for member, own, found in zip(trained, losses.T.tolist(), valid, strict=True):
        if member.left:
            continue
        for offset, value in enumerate(own):
            if not math.isfinite(value):
                member.diverged = f"the training loss was {value} at step {step - len(own) + offset + 1}"
                break
        else:
            point = {"step": step, "seconds": member.train_seconds + seconds, "train_loss": sum(own) / len(own)}
            if math.isfinite(found.loss):
                point["valid_loss"] = found.loss
            member.curve.append({**point, "valid_score": compute(found.true, found.predicted)})
