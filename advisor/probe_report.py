"""What a probe measured and settled, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from advisor.evidence import Measured
from advisor.probe import Probed
from advisor.race import SEEDS
from advisor.recommend import Recommendation
from advisor.report import as_json as answer_as_json
from advisor.report import as_text as answer_as_text
from advisor.report import bullet
from sweeper.own_data import FROM_SCRATCH
from sweeper.summary import SIMILAR_FROM

FACTS = {"knn_score": "k-NN", "probe_score": "a linear probe", "chance_score": "chance", "logme": "LogME"}


def as_text(found: Probed) -> str:
    """Return the second answer, and below it what the probe measured and settled."""
    lines = [
        f"Probe ({found.seconds:.0f} of {found.budget:g} s, {found.ran} trials run, all in {found.results}):",
        *(line for text in _measured(found) for line in bullet(text)),
        "What it settled:",
        *(line for text in settled(found) for line in bullet(text)),
    ]
    return answer_as_text(found.after) + "\n".join(lines) + "\n"


def as_json(found: Probed) -> dict[str, Any]:
    """Return the second answer, with everything about the probe, as plain JSON values."""
    return {
        **answer_as_json(found.after),
        "probe": {
            "model": found.place.model,
            "task": found.place.task,
            "n_train": found.place.n_train,
            "seconds": found.seconds,
            "budget_seconds": found.budget,
            "trials_run": found.ran,
            "results": found.results,
            "facts": {name: found.facts[name] for name in FACTS if name in found.facts},
            "transfer": found.transfer,
            "similar": found.similar,
            "rounds": [asdict(own) for own in found.rounds],
            "left_out": dict(found.left_out),
            "deciding_steps": found.deciding.steps if found.deciding else None,
            "settled": settled(found),
            "before": {"spoke": found.before.spoke, "strategies": [c.strategy for c in found.before.candidates]},
        },
    }


def _measured(found: Probed) -> Iterator[str]:
    scores = [
        f"{name} {found.facts[key]:.2f}" if key == "logme" else f"{name} {100 * found.facts[key]:.1f}"
        for key, name in FACTS.items()
        if key in found.facts
    ]
    if found.transfer is not None:
        scratch = " (there was none: its weights are random)" if found.place.model in FROM_SCRATCH else ""
        yield (
            f"frozen features of {found.place.model} go {100 * found.transfer:.0f} % of the way from chance to perfect "
            f"({', '.join(scores)}): a task {_similar(found.similar)} pretraining{scratch}, by the rule "
            f"of thumb that {100 * SIMILAR_FROM:.0f} % is similar"
        )
    for own in found.rounds:
        shown = [
            f"{score.strategy} {100 * score.valid:.1f} (lr {score.lr:g}" + f", {_seeds(score.seeds)})"
            for score in own.scores
        ]
        yield f"{own.trials} trials of {own.steps} steps: {', '.join(shown) or 'none complete'} on validation"
    if found.deciding is not None and found.deciding.steps < found.place.steps:
        yield (
            f"that is {found.deciding.steps} of the {found.place.steps} steps that suit these rows: short trials "
            "favour what learns fast"
        )
    for name, reason in found.left_out.items():
        yield f"left out: {name}: {reason}"


def _seeds(number: int) -> str:
    return "1 seed" if number == 1 else f"{number} seeds"


def settled(found: Probed) -> list[str]:
    """Return what was open before and is not now, and what is still open, a line each."""
    before, after = found.before, found.after
    lines = []
    if before.situation.similar is None and after.situation.similar is not None:
        lines.append(f"a task {_similar(after.situation.similar)} pretraining: that was open")
    elif found.similar is not None and before.situation.similar != found.similar:
        said = _similar(before.situation.similar)
        lines.append(f"you say a task {said} pretraining, frozen features say the opposite: taken as you say")
    was, now = _rested(before), _rested(after)
    lines.append(f"the answer rests on {now}, as before" if was == now else f"the answer rested on {was}, now on {now}")
    if before.candidates and after.candidates:
        was, now = before.candidates[0].strategy, after.candidates[0].strategy
        lines.append(f"the choice: {now}, as before" if was == now else f"the choice: was {was}, is now {now}")
    nearest, earlier = _nearest(after), _nearest(before)
    if found.deciding is None:
        lines.append(f"nothing by trials: {found.undecided}; a longer --probe goes on from these")
        return lines
    raced = {score.strategy for score in found.deciding.scores}
    ranked = [own.strategy for own in nearest.ranked() if own.strategy in raced] if nearest else []
    if nearest is None or len(ranked) < 2:
        return lines
    first, *others = ranked
    for other in others:
        where = f" on {earlier.task}" if earlier is not None and earlier.task != nearest.task else ""
        lines.append(
            f"{first} - {other}: {_lead(earlier, first, other)} before{where}, {_lead(nearest, first, other)} now"
        )
    unsettled = [other for other in others if not _is_settled(nearest, first, other)]
    if unsettled:
        more = "" if _is_through(found) else "a longer --probe goes on from these trials; "
        lines.append(
            f"still open: {first} or {' or '.join(unsettled)}; {more}after `advisor fit`, `advisor next` names the "
            "trials that would settle it"
        )
    return lines


def _is_through(found: Probed) -> bool:
    """Return whether the last round had all steps and all seeds."""
    last = found.deciding
    return last is not None and last.steps >= found.place.steps and all(score.seeds >= SEEDS for score in last.scores)


def _similar(value: bool | None) -> str:
    return "similar to" if value else "different from"


def _rested(answer: Recommendation) -> str:
    nearest = _nearest(answer)
    if answer.spoke == "evidence" and nearest is not None:
        return f"trials of {nearest.model} on {nearest.task} ({nearest.n_train} rows, {nearest.steps} steps)"
    return "the rules" if answer.spoke == "rules" else "rules that lacked an answer"


def _nearest(answer: Recommendation) -> Measured | None:
    return next(iter(answer.comparable), None)


def _gap(measured: Measured | None, first: str, other: str) -> tuple[float, float, float] | None:
    known = {setting.strategy for setting in measured.settings} if measured else set()
    if measured is None or not {first, other} <= known:
        return None
    return measured.best(first).ahead_of(measured.best(other))


def _lead(measured: Measured | None, first: str, other: str) -> str:
    gap = _gap(measured, first, other)
    if gap is None:
        return "no trials to compare"
    mean, low, high = (100 * value for value in gap)
    return f"{mean:+.1f} points ({low:+.1f} to {high:+.1f})"


def _is_settled(measured: Measured, first: str, other: str) -> bool:
    gap = _gap(measured, first, other)
    return gap is not None and gap[2] > gap[1] and (gap[1] > 0 or gap[2] < 0)
