"""Why a strategy stands where it does in an answer, in words."""

from __future__ import annotations

from collections.abc import Iterator

from advisor.recommend import Candidate, Recommendation
from advisor.report import bullet, needed
from sweeper.suggest import no_such


def explained(answer: Recommendation, strategy: str | None = None) -> str:
    """Return the explanation of one candidate, the first if none is named.

    Raises:
        ValueError: the answer has no such candidate.
    """
    names = [own.strategy for own in answer.candidates]
    if strategy is not None and strategy not in names:
        raise no_such("candidate", strategy, names)
    place = names.index(strategy) if strategy is not None else 0
    return "\n".join(line for text in _sentences(answer, place) for line in bullet(text, 0, ""))


def _sentences(answer: Recommendation, place: int) -> Iterator[str]:
    own = answer.candidates[place]
    who = {
        "rules": "The rules spoke",
        "evidence": "Trials of a near situation spoke",
        "depends": "The rules spoke, and need answers that were not given",
    }[answer.spoke]
    yield f"{own.strategy} is number {place + 1} of {len(answer.candidates)}. {who}."
    yield from _rules(answer, own)
    yield f"Its settings: {', '.join(f'{k} {v}' for k, v in own.settings.items())}; from: {own.settings_from}."
    yield from _trials(answer, own)
    for published in own.published:
        yield (
            f"Others measured it in {published.situations} situations, {published.behind:.1f} points below the best "
            f"on average: {published.row}."
        )
    if own.need is not None:
        yield f"It {needed(own.need)}."
    if own.estimate is not None:
        yield (
            "No other candidate is as good on every count (test, parameters, seconds, forgetting) and better on one."
            if own.not_beaten
            else "Another candidate is as good on test, parameters, seconds and forgetting, and better on one of them."
        )
    yield from _neighbours(answer, place)
    for lead in answer.leads:
        if own.strategy in lead:
            yield f"{lead}."
    if place == 0:
        for flip in answer.flips:
            yield f"It would be otherwise with {flip}."


def _rules(answer: Recommendation, own: Candidate) -> Iterator[str]:
    speaking = {rule.name: rule for verdict in answer.verdicts for rule in verdict.rules}
    for rule in speaking.values():
        if own.strategy in rule.prefer:
            yield f"A rule prefers it: {rule.because} ({rule.source})."
    if not own.by_rules:
        others = ", ".join(dict.fromkeys(name for rule in speaking.values() for name in rule.prefer))
        yield f"No rule prefers it here; they prefer {others}."


def _trials(answer: Recommendation, own: Candidate) -> Iterator[str]:
    estimate = own.estimate
    if estimate is None:
        yield "No trial that is stored speaks of it in a situation like this: what it scores here is not known."
        return
    nearest = answer.comparable[0]
    spread = f" ± {100 * estimate.std:.1f}" if estimate.std is not None else ""
    yield (
        f"Its score there: test {100 * estimate.mean:.1f}{spread} over {estimate.n_trials} trials "
        f"({', '.join(estimate.trial_ids)}; `sweeper show ID` shows one); the nearest situation is {nearest.model} on "
        f"{nearest.task} with {nearest.n_train} rows."
    )
    if answer.carry is not None:
        low, high = 100 * estimate.mean - answer.carry.points, 100 * estimate.mean + answer.carry.points
        yield f"On another task 90 % of scores lie from {max(0.0, low):.0f} to {min(100.0, high):.0f}."
    if own.behind is not None:
        yield (
            f"Over {own.behind.situations} situations that fit it is {own.behind.behind:.1f} points below the best, "
            f"near ones counting more."
        )
    for trial, reason in estimate.doubted.items():
        yield f"Trial {trial} stands alone: {reason}."


def _neighbours(answer: Recommendation, place: int) -> Iterator[str]:
    if place > 0:
        yield f"Before it stands {answer.candidates[place - 1].strategy}."
    if place + 1 < len(answer.candidates):
        yield (
            f"The runner-up is {answer.candidates[place + 1].strategy}."
            if place == 0
            else (f"After it comes {answer.candidates[place + 1].strategy}.")
        )
