"""From specs to rows: the one place where model, task, strategy, loop and metrics meet. No Ray."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout

from sweeper import checkpoint, generation, planner
from sweeper.allocator import PeakMemory
from sweeper.answers import MOST_CLASSES, predict, score, test_scores, wrong_by_class
from sweeper.diagnose import diagnose
from sweeper.facts import task_facts
from sweeper.flops import FlopCounter
from sweeper.members import CannotPackError
from sweeper.models import LoadedModel, find_model
from sweeper.models.base import NotApplicableError, UnavailableError
from sweeper.pack import make_packs
from sweeper.provenance import code, environment, now
from sweeper.source import source_weights
from sweeper.spec import Status, TrialResult, TrialSpec
from sweeper.strategies import Strategy, find_strategy
from sweeper.strategies.base import check_needs
from sweeper.sweep import failed_row
from sweeper.tasks import TaskData, find_task
from sweeper.train import Stop, Trained, train_pack
from sweeper.work import GENERATION

Judge = Callable[[int, Sequence[TrialSpec], Sequence[float]], Mapping[str, str]]
"""From a step, trials and their scores on validation to the ids of those that are to stop, and why."""


def run_trials(
    specs: Iterable[TrialSpec], pack_size: int | None = None, grid: str | None = None, judge: Judge | None = None
) -> Iterator[TrialResult]:
    """Run trials in this process, pack after pack, and yield a row for each."""
    for pack in make_packs(list(specs), pack_size):
        yield from run_pack(pack, {**code(), **environment(), "grid": grid}, judge=judge)


@dataclass(frozen=True)
class LeftOut:
    """Trials of a grid that make no sense, or cannot run here.

    Attributes:
        what: Model, task or strategy, as far as they matter to the reason.
        reason: Why, and where there is one the way out.
        trials: How many.
    """

    what: str
    reason: str
    trials: int


def check_all(
    specs: Sequence[TrialSpec], lenient: bool = False, told: Callable[[int, int], None] | None = None
) -> tuple[list[TrialSpec], list[LeftOut]]:
    """Return the trials that make sense, and what is left out and why; nothing is trained.

    Args:
        specs: The trials.
        lenient: Leave out hyperparameters that do not fit a model, and strategies that make sense nowhere, too:
            for a grid that was written for other rows and models.
        told: Hears how many trials are checked, of how many.

    Raises:
        ValueError: a task has not the rows, or a hyperparameter does not fit a model; also where a strategy makes
            sense nowhere in these trials, for then it was asked for in vain, and where nothing at all does.
    """
    loaded: dict[tuple[str, int], TaskData | NotApplicableError] = {}
    verdicts: dict[tuple[str, ...], tuple[str, NotApplicableError] | None] = {}
    kept = []
    reasons: dict[tuple[str, str], int] = {}
    for number, spec in enumerate(specs):
        if told is not None:
            told(number, len(specs))
        rows = (spec.task, spec.n_train)
        if rows not in loaded:
            try:
                loaded[rows] = find_task(spec.task).load(spec.seed, spec.n_train)
            except NotApplicableError as error:
                loaded[rows] = error
        what = (spec.model, spec.task, spec.strategy, str(spec.hparams))
        if what not in verdicts:
            verdicts[what] = _makes_no_sense(spec, loaded[rows], lenient)
        verdict = verdicts[what]
        if verdict is None:
            kept.append(spec)
        else:
            key = (verdict[0], str(verdict[1]))
            reasons[key] = reasons.get(key, 0) + 1
    somewhere = {spec.strategy for spec in kept}
    for (_, _, strategy, _), verdict in verdicts.items():
        in_vain = strategy not in somewhere and not lenient
        in_vain = in_vain and verdict is not None and not isinstance(verdict[1], UnavailableError)
        if verdict is not None and (in_vain or not kept):
            if isinstance(verdict[1], UnavailableError):  # says itself how to get it
                raise verdict[1]
            raise NotApplicableError(f"{verdict[1]}. `sweeper ls` lists other strategies, models and tasks")
    return kept, [LeftOut(what, reason, number) for (what, reason), number in reasons.items()]


def _makes_no_sense(
    spec: TrialSpec, data: TaskData | NotApplicableError, lenient: bool
) -> tuple[str, NotApplicableError] | None:
    """Return what of a trial is to blame, and why; ``None`` where it makes sense."""
    if isinstance(data, NotApplicableError):
        return spec.task, data
    try:
        model = _fresh_model(spec, data, [spec.seed])
    except NotApplicableError as error:
        return f"{spec.model} on {spec.task}", error
    strategy = strategy_of(spec)
    try:
        stage = next(strategy.adapt(model, [strategy]))
    except NotApplicableError as error:
        return f"{spec.strategy} on {spec.model}", error
    except ValueError as error:
        if not lenient:
            raise
        return f"{spec.strategy} on {spec.model}", NotApplicableError(str(error))
    try:
        check_needs(spec.strategy, stage, data.splits, spec.task)
    except NotApplicableError as error:
        return f"{spec.strategy} on {spec.task}", error
    return None


Keep = Callable[[LoadedModel, LoadedModel, int, TrialResult, TaskData], None]
"""Takes what was trained: the base, the trained pack, a member's number and its row; and the task's rows."""


class _SlowerTogetherError(Exception):
    """These trials take longer in one pack than one after the other."""


def run_pack(
    specs: Sequence[TrialSpec], provenance: Mapping[str, Any], keep: Keep | None = None, judge: Judge | None = None
) -> list[TrialResult]:
    """Train trials that `make_packs` put together in one pass, and return a row for each, whatever happens.

    What goes wrong is a finding: the row's status and error say it. A pack that does not fit into
    memory is halved until it does.

    Args:
        provenance: What every row carries besides the time.
        keep: Called for each complete trial while its weights are there; what it raises is the trial's end too.
        judge: Says at each point of the curves but the last which trials stop.
    """
    return [row for rows in run_planned(specs, provenance, keep, False, judge) for row in rows]


def run_planned(
    specs: Sequence[TrialSpec],
    provenance: Mapping[str, Any],
    keep: Keep | None = None,
    plan: bool = True,
    judge: Judge | None = None,
    checkpoints: Path | None = None,
) -> Iterator[list[TrialResult]]:
    """Yield the rows of `run_pack` as they are there: the trials train one after the other where that is faster.

    Args:
        checkpoints: Folder in which a pack is kept while it trains, and from which it goes on (`sweeper.checkpoint`).
    """
    parts: list[Sequence[TrialSpec]] = []
    # Parts train after the `except`: within it the error holds the frames that it came through, and they the model.
    try:
        yield _run(specs, provenance, keep, plan, judge, checkpoints)
        return
    except (CannotPackError, _SlowerTogetherError) as error:
        if len(specs) > 1:
            parts = [[spec] for spec in specs]
        status, reason = Status.FAILED, one_line(error)
    except (torch.OutOfMemoryError, MemoryError) as error:
        status, reason = Status.OUT_OF_MEMORY, one_line(error)
    except Exception as error:  # a crash of one pack must not end the sweep
        out_of_memory = isinstance(error, RuntimeError) and "not enough memory" in str(error)
        status = Status.OUT_OF_MEMORY if out_of_memory else Status.FAILED
        reason = one_line(error)
    if status is Status.OUT_OF_MEMORY and len(specs) > 1:
        parts = [specs[: len(specs) // 2], specs[len(specs) // 2 :]]
    for part in parts:
        yield from run_planned(part, provenance, keep, plan, judge, checkpoints)
    if not parts:
        yield [failed_row(spec, status, reason, provenance) for spec in specs]


def one_line(error: BaseException) -> str:
    """Return what went wrong as a row has it."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def strategy_of(spec: TrialSpec) -> Strategy:
    """Return a trial's strategy with its hyperparameters."""
    return find_strategy(spec.strategy)(**spec.hparams)


def _fresh_model(spec: TrialSpec, data: TaskData, seeds: Sequence[int]) -> LoadedModel:
    if data.work == GENERATION:
        generation.check_packages()
    model = find_model(spec.model)(data.input_shape, data.n_classes, spec.seed, data.work)
    model.seeds = tuple(seeds)
    # A language model's head is pretrained with it.
    model.head_is_fresh = data.pretrain is None and data.work != GENERATION
    model.work, model.labels = data.work, data.labels
    return model


def _load(spec: TrialSpec) -> tuple[dict[str, torch.Tensor] | None, TaskData]:
    """Return the source model's weights, where the task has a source domain, and the task's final rows."""
    task = find_task(spec.task)
    data = task.load(spec.seed, spec.n_train)
    if data.pretrain is None:
        return None, data
    source = _fresh_model(spec, data, [spec.seed])
    source_rows = data.encoded(source.encode)
    weights = source_weights(source, source_rows.splits["source_train"], data.pretrain, task.metric)
    if data.focus:
        probe = _fresh_model(spec, data, [spec.seed])
        probe.network.load_state_dict(weights)
        data = data.focus(wrong_by_class(predict(probe, [data.splits["valid"]])[0], data))
    return weights, data


def untrained(spec: TrialSpec, seeds: Sequence[int]) -> tuple[LoadedModel, TaskData]:
    """Return the network that a trial starts from, with a member for each seed, and the rows as it reads them."""
    weights, data = _load(spec)
    model = _fresh_model(spec, data, seeds)
    if weights is not None:
        model.network.load_state_dict(weights)
    model.network.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, data.encoded(model.encode)


def described(spec: TrialSpec) -> tuple[int, str]:
    """Return what is known of a trial's situation before it runs: parameters of the model, modality of the rows."""
    data = find_task(spec.task).load(spec.seed, spec.n_train)
    return _fresh_model(spec, data, [spec.seed]).loaded_params, str(data.context["modality"])


def _run(
    specs: Sequence[TrialSpec],
    provenance: Mapping[str, Any],
    keep: Keep | None,
    plan: bool,
    judge: Judge | None,
    checkpoints: Path | None,
) -> list[TrialResult]:
    model, data = untrained(specs[0], [spec.seed for spec in specs])
    ids = [spec.trial_id for spec in specs]
    kept = None if checkpoints is None else (checkpoint.file_for(checkpoints, ids), ids)
    if kept is not None and kept[0].exists():  # what began together goes on together
        plan = False
    if plan and len(specs) > 1 and not planner.pays(model, data, specs):
        raise _SlowerTogetherError
    device = next(model.network.parameters()).device
    metric, has_source, members = find_task(specs[0].task).metric, data.pretrain is not None, len(specs)
    base = model.beside() if keep else model
    base_flops = row_flops(model.beside(), data)
    as_loaded, facts = model.beside(), None
    with contextlib.suppress(Timeout):  # while others measure them there is other work
        facts = task_facts(as_loaded, data, metric, wait=False)
    starts = has_source or not model.head_is_fresh  # as something that already does the task, well or badly
    # Before training, and with all additions off, the members are one and the same.
    untouched = test_scores("untouched_", metric, model.beside(), data) * members if starts else [{}] * members

    memory = PeakMemory(device)
    trained = train_pack(
        model,
        [strategy_of(spec) for spec in specs],
        [spec.train for spec in specs],
        [data.splits["train"]] * members,
        [data.splits["valid"]] * members,
        metric,
        {name: data.splits[name] for name in ("source_train",) if name in data.splits},
        _stop(judge, specs),
        kept,
    )
    peak = memory.peak_bytes()

    found = {k: measured.place for k, measured in enumerate(trained) if measured.place is not None}
    there = sorted(found, key=lambda k: found[k])  # the members in the model
    after: list[dict[str, Any]] = [{}] * members
    off: list[dict[str, Any]] = [{}] * members
    inference_flops: dict[int, int] = {}
    if not all(measured.left for measured in trained):
        for k, scores in zip(there, test_scores("", metric, model, data), strict=True):
            after[k] = scores
        model.prefix = None
        if starts and model.can_switch_off:
            model.switch(False)
            off = test_scores("off_", metric, model.one(), data) * members
            model.switch(True)
        inference_flops = dict(zip(there, answer_flops(model, [specs[k] for k in there], data), strict=True))

    if facts is None:
        facts = task_facts(as_loaded, data, metric)
    rows = []
    for k, spec in enumerate(specs):
        measured = trained[k]
        costs = {
            "train_seconds": measured.train_seconds,
            "train_flops": measured.train_flops,
            "kept_blocks": measured.kept_blocks,
            **({"inference_flops": inference_flops[k]} if k in inference_flops else {}),
            "peak_memory_bytes": peak,
            "pack_size": members,
            "trainable_params": measured.trainable_params,
            "total_params": measured.total_params,
            "saved_bytes": measured.saved_bytes,
        }
        status, learned = Status.COMPLETE, {**untouched[k], **off[k], **after[k], **_learned(measured)}
        if measured.diverged:
            status, learned = Status.DIVERGED, {}
        elif measured.stopped:
            status, learned = Status.PRUNED, _learned(measured)
        row = TrialResult(
            spec=spec,
            status=status,
            metrics={**learned, **costs},
            curve=tuple(measured.curve),
            context={
                **data.context,
                "work": data.work,
                "n_valid": len(data.splits["valid"]),
                "n_test": len(data.splits["test"]),
                **({"labels": list(data.labels)} if 0 < len(data.labels) <= MOST_CLASSES else {}),
                **facts,
                "model_params": model.loaded_params,
                **({"weights": model.weights} if model.weights else {}),
                "base_inference_flops": base_flops,
                "memory_kind": memory.kind,
                "device": device.type,
            },
            provenance={**provenance, "recorded_at": now()},
            error=measured.diverged or measured.stopped,
        )
        rows.append(_diagnosed(_with_forgetting(row)))
        if keep and status is Status.COMPLETE:
            assert measured.place is not None
            keep(base, model, measured.place, rows[-1], data)
    return rows


def _stop(judge: Judge | None, specs: Sequence[TrialSpec]) -> Stop | None:
    if judge is None:
        return None

    def stop(step: int, members: Sequence[int], scores: Sequence[float]) -> dict[int, str]:
        reasons = judge(step, [specs[k] for k in members], scores)
        return {k: reasons[specs[k].trial_id] for k in members if specs[k].trial_id in reasons}

    return stop


def score_on_test(spec: TrialSpec, model: LoadedModel, data: TaskData) -> float:
    """Return a model's score on the test rows of a trial's task."""
    return score(find_task(spec.task).metric, model, [data.splits["test"]])[0]


def _learned(measured: Trained) -> dict[str, float]:
    last = measured.curve[-1]
    return {"valid_score": last["valid_score"], "train_loss": last["train_loss"]}


def _with_forgetting(row: TrialResult) -> TrialResult:
    before = row.metrics.get("untouched_source_test_score")
    after = row.metrics.get("source_test_score")
    if before is None or after is None:
        return row
    return dataclasses.replace(row, metrics={**row.metrics, "forgetting": before - after})


def _diagnosed(row: TrialResult) -> TrialResult:
    return dataclasses.replace(row, metrics={**row.metrics, "diagnoses": diagnose(row)})


def row_flops(model: LoadedModel, data: TaskData) -> int:
    """Return the FLOPs of one row's way through one member's network, as its additions are switched."""
    # Two rows, since one alone may take a way of its own (a vector instead of a matrix); from the middle, since
    # texts stand in the order of their lengths.
    middle = len(data.splits["test"]) // 2
    rows = data.splits["test"].rows(torch.arange(max(0, middle - 1), middle + 1))
    with FlopCounter() as counter:
        predict(model, [rows] * model.members)
    return round(counter.get_total_flops() / (len(rows) * model.members))


def answer_flops(model: LoadedModel, specs: Sequence[TrialSpec], data: TaskData) -> list[int]:
    """Return each member's `row_flops` with everything merged that can be; the model is left as it was."""
    plain = model.merged(0)
    if plain is not None:
        return [row_flops(model.one(plain), data)] * len(specs)
    # Merged, a layer is shaped as it was loaded: the same FLOPs as with the addition switched off.
    merging = [addition for addition in model.switches if addition.enabled and addition.merged(0) is not None]
    for addition in merging:
        addition.enabled = False
    pack = row_flops(model, data)
    for addition in merging:
        addition.enabled = True
    found = {str(spec.hparams): pack for spec in specs}
    if len(merging) < len(model.switches) and len(found) > 1:
        # What stays beside is padded to the largest of the pack: count each size alone.
        for spec in {str(spec.hparams): spec for spec in specs}.values():
            alone, strategy = _fresh_model(spec, data, [spec.seed]), strategy_of(spec)
            for _ in strategy.adapt(alone, [strategy]):
                pass
            (found[str(spec.hparams)],) = answer_flops(alone, [spec], data)
    return [found[str(spec.hparams)] for spec in specs]
