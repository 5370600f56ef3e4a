"""Which trials would settle the choice: a grid where nothing near is stored, more seeds where the lead is open."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advisor.contenders import Contender, contenders
from advisor.evidence import MIN_SEEDS, Measured, Setting, t_quantile
from advisor.own import OwnRows, Place
from advisor.recommend import Recommendation
from sweeper.own_data import KEYS, quoted
from sweeper.spec import TrainArgs
from sweeper.strategies import find_strategy, hparams_of
from sweeper.tasks import find_task

MOST_SEEDS = 20
"""Beyond, a gap is too small to be worth settling."""
RIVALS = 2
GRID_STRATEGIES = 4
STAND_INS = {
    "text": ("minilm", "film_reviews", 16, 40),
    "image": ("small_cnn", "digits_shifted", 32, 120),
    "tabular": ("mlp", "newsgroup_vectors", 32, 100),
}
"""Modality -> model, task, batch size and steps, where a user brought no rows and nothing stored fits."""


@dataclass(frozen=True)
class NextTrials:
    """Trials to run, and why.

    Attributes:
        why: Lines for people.
        grid: The content of a grid file; ``None`` where nothing is to be run.
        trials: How many it has.
    """

    why: Sequence[str]
    grid: Mapping[str, Any] | None = None
    trials: int = 0


def next_trials(
    answer: Recommendation, own: OwnRows | None, seeds: int = MIN_SEEDS, folder: Path = Path()
) -> NextTrials:
    """Return the trials that would most reduce what is uncertain in an answer.

    Args:
        answer: What is known so far.
        own: The user's rows, where they brought some: new trials are on these.
        seeds: Of new trials.
        folder: Where the grid file will lie: it names the data from there.

    Raises:
        ValueError: without rows, nothing can stand in for them; or nothing can run.
    """
    nearest = next(iter(answer.comparable), None)
    near = nearest is not None and nearest.is_near(answer.situation)
    if near and nearest is not None and (own is None or nearest.task == own.place.task):
        return _more_seeds(nearest, answer, own is not None)
    if own is not None:
        place = own.on(answer.situation.n_train)
        why = f"no stored trial of {place.model} on {own.data}"
        why += f"; the nearest are of {nearest.model} on {nearest.task}." if near and nearest else ", and none is near."
        return _grid(answer, place, seeds, why, data_table(own, folder))
    place, why = stand_in(answer)
    return _grid(answer, place, seeds, why)


def _more_seeds(measured: Measured, answer: Recommendation, own: bool) -> NextTrials:
    """Return more seeds of the first strategy and of those that may be better, if there are any."""
    first, *others = measured.ranked()
    preferred = {name for verdict in answer.verdicts for name in verdict.prefer}
    open_ = [other for other in others if not _is_settled(first.ahead_of(other))]
    rivals = [own for rank, own in enumerate(open_) if rank < RIVALS or own.strategy in preferred][: RIVALS + 1]
    where = f"{measured.model} on {measured.task}, {measured.n_train} rows, {measured.steps} steps"
    if not rivals:
        leads = [f"{first.strategy} leads {other.strategy} by {_in_words(first, other)}." for other in others[:RIVALS]]
        hint = [] if own else ["Whether that holds on your own rows: advisor next --data FILE --model NAME."]
        return NextTrials([f"Settled in the nearest situation ({where}):", *leads, *hint])
    why = [f"Near trials ({where}) leave the lead open:"]
    shared = frozenset.intersection(*(frozenset(setting.seeds) for setting in (first, *rivals)))
    wanted = len(shared)
    for rival in rivals:
        needed = seeds_to_settle(first, rival)
        text = f"{first.strategy} - {rival.strategy}: {_in_words(first, rival)}"
        if needed is None:
            text += f"; the seeds so far do not say how many it takes: {MIN_SEEDS} to begin with"
            wanted = max(wanted, MIN_SEEDS, len(shared) + 1)
        elif needed > MOST_SEEDS:
            text += (
                f"; about {needed:,} seeds would settle so small a gap, more than it is worth: take the cheaper "
                f"({min((first, rival), key=lambda own: own.trainable_params).strategy}), unless {MOST_SEEDS} seeds "
                "show another gap"
            )
            wanted = MOST_SEEDS
        else:
            text += f"; about {needed} seeds would settle it, if gap and spread stay what they are"
            wanted = max(wanted, needed, len(shared) + 1)
        why.append(f"  {text}.")
    new = _new_seeds(shared, wanted - len(shared))
    if not new:
        return NextTrials([*why, f"All of them have {len(shared)} seeds already."])
    entries = [_entry_of(setting) for setting in (first, *rivals)]
    question = f"Which is best, {' or '.join(own.strategy for own in (first, *rivals))}? More seeds of near trials."
    grid = {"question": question, "models": [measured.model], "tasks": [measured.task], "n_train": [measured.n_train]}
    return NextTrials(why, {**grid, "seeds": new, "strategies": entries}, len(new) * len(entries))


def seeds_to_settle(first: Setting, second: Setting) -> int | None:
    """Return how many shared seeds an interval without 0 would take, if mean and spread of the gap stay as they are.

    The least n with t(n - 1) * sd / sqrt(n) < gap; ``None`` where too few seeds are shared to know the spread, or
    where there is no gap.
    """
    theirs = dict(zip(second.seeds, second.test, strict=True))
    gaps = [mine - theirs[seed] for seed, mine in zip(first.seeds, first.test, strict=True) if seed in theirs]
    if len(gaps) < 2:
        return None
    gap, spread = abs(statistics.fmean(gaps)), statistics.stdev(gaps)
    if gap == 0:
        return None
    number = max(2, math.ceil((1.96 * spread / gap) ** 2))  # t is never less than this
    while t_quantile(number - 1) * spread / math.sqrt(number) >= gap:
        number += max(1, number // 100)
    return number


def _is_settled(gap: tuple[float, float, float] | None) -> bool:
    return gap is not None and gap[2] > gap[1] and (gap[1] > 0 or gap[2] < 0)


def _in_words(first: Setting, second: Setting) -> str:
    gap = first.ahead_of(second)
    if gap is None:
        return "too few shared seeds for an interval"
    mean, low, high = (100 * value for value in gap)
    return f"{mean:+.1f} points on test, 95 % interval {low:+.1f} to {high:+.1f}"


def _new_seeds(known: frozenset[int], number: int) -> list[int]:
    """Return the first seeds that are not known."""
    found: list[int] = []
    seed = 0
    while len(found) < number:
        if seed not in known:
            found.append(seed)
        seed += 1
    return found


def _entry_of(setting: Setting) -> dict[str, Any]:
    """Return a stored setting as an entry of a grid, which makes the same trials of it, other seeds aside."""
    train = TrainArgs(**setting.train)
    return {"name": setting.strategy, **setting.hparams, **asdict(train)}


def stand_in(answer: Recommendation) -> tuple[Place, str]:
    """Return where trials run that stand in for those on rows that were not brought, and why there.

    Raises:
        ValueError: nothing can stand in for them.
    """
    situation = answer.situation
    if situation.modality is None or situation.model_params is None or situation.n_train is None:
        missing = [
            name
            for name, value in (
                ("--modality", situation.modality),
                ("--model-params", situation.model_params),
                ("--n-train", situation.n_train),
            )
            if value is None
        ]
        raise ValueError(
            f"what to run depends on the rows and the model: --data FILE (--model NAME) names them, or say "
            f"{', '.join(missing)} for trials that stand in for them"
        )
    if situation.large:
        raise ValueError(
            "small models settle nothing for a large one: --data FILE --model hf:NAME runs it on your rows"
        )
    model, task, batch_size, steps = STAND_INS[situation.modality]
    nearest = next(iter(answer.comparable), None)
    if nearest is not None and nearest.modality == situation.modality and _is_here(nearest.task):
        first = nearest.ranked()[0]
        model, task, batch_size, steps = nearest.model, nearest.task, first.train["batch_size"], nearest.steps
    found = find_task(task)
    n_train = min(situation.n_train, found.n_train)
    place = Place(model, task, n_train, batch_size, steps, None)
    why = (
        f"nothing stored is near. {model} on {task}, {n_train} rows, stands in for your model and rows, of which it "
        "may say little: --data FILE (--model NAME) takes those."
    )
    return place, why


def _is_here(task: str) -> bool:
    try:
        find_task(task)
    except ValueError:
        return False
    return True


def _grid(
    answer: Recommendation, place: Place, seeds: int, why: str, data: Mapping[str, Any] | None = None
) -> NextTrials:
    """Return the grid of the likeliest strategies at their learning rates, all with equal steps."""
    field, left_out = contenders(answer, place, GRID_STRATEGIES)
    if not field:
        raise ValueError("; ".join(dict.fromkeys(left_out.values())))
    lines = [f"{why[:1].upper()}{why[1:]} These trials would settle which of {len(field)} strategies to take:"]
    for own in field:
        rates = ", ".join(f"{rate:g}" for rate in sorted(own.rates))
        lines.append(f"  {own.strategy}, learning rates {rates}, seeds 0 to {seeds - 1}")
    lines += [f"  left out: {name}: {reason}" for name, reason in left_out.items()]
    return grid_of(field, place, seeds, lines, data)


def grid_of(
    field: Sequence[Contender],
    place: Place,
    seeds: int,
    why: Sequence[str],
    data: Mapping[str, Any] | None = None,
) -> NextTrials:
    """Return the grid of some strategies in a place, with a last line on how much that is."""
    trials = seeds * sum(len(own.rates) for own in field)
    where = {"models": [place.model], "tasks": [place.task]} if data is None else {"models": [place.model]}
    grid: dict[str, Any] = {
        "question": f"Which of {', '.join(own.strategy for own in field)} is best?",
        **where,
        "n_train": [place.n_train],
        "seeds": list(range(seeds)),
    }
    if data is not None:
        grid["data"] = data
    grid["train"] = {"steps": place.steps, "batch_size": place.batch_size}
    lines = [*why, f"{trials} trials of {place.steps} steps, {place.batch_size} rows each."]
    return NextTrials(lines, {**grid, "strategies": [_entry(own) for own in field]}, trials)


def _entry(own: Contender) -> dict[str, Any]:
    complete = hparams_of(find_strategy(own.strategy)(**own.hparams))
    return {"name": own.strategy, **complete, "lr": sorted(own.rates)}


def data_table(own: OwnRows, folder: Path) -> dict[str, Any]:
    """Return the table [data] of a grid file: what the user said, and no more."""
    said = {key: getattr(own.asked, name) for key, name in KEYS.items()}
    found = {key: value for key, value in said.items() if value is not None}
    if not own.data.startswith("hf:"):
        found["file"] = os.path.relpath(own.data, folder)
    return found


def to_toml(found: NextTrials) -> str:
    """Return the text of the grid file."""
    assert found.grid is not None
    return "\n".join([*(f"# {_in_a_comment(line)}" for line in found.why), *_lines(found.grid)]) + "\n"


def _in_a_comment(line: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _lines(grid: Mapping[str, Any]) -> Iterator[str]:
    tables = ("data", "train", "strategies")
    for key, value in grid.items():
        if key not in tables:
            yield f"{key} = {_value(value)}"
    for key in ("data", "train"):
        if key in grid:
            yield from ("", f"[{key}]", *(f"{name} = {_value(value)}" for name, value in grid[key].items()))
    for entry in grid["strategies"]:
        yield from ("", "[[strategies]]", *(f"{name} = {_value(value)}" for name, value in entry.items()))


def _value(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value)
