"""Rules and evidence to a ranked answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from advisor.evidence import Fitted, Measured, Setting
from advisor.rules import DEFAULTS, REMARKS, Remark, Verdict, decide
from advisor.situation import QUESTIONS, Situation, describe, flag


@dataclass(frozen=True)
class Estimate:
    """What trials say of a setting: test score and its spread over seeds."""

    mean: float
    std: float | None
    n_trials: int
    trial_ids: Sequence[str]
    stores: Mapping[str, int]
    trainable_params: float
    trainable_percent: float
    train_seconds: float


@dataclass(frozen=True)
class Candidate:
    """One entry of the ranked answer.

    Attributes:
        settings: Hyperparameters, learning rate included.
        settings_from: Where those come from: a measured situation, or the literature.
        by_rules: Whether the decision table prefers it here.
        estimate: From the nearest measured situation that fits, if there is one.
    """

    strategy: str
    settings: Mapping[str, Any]
    settings_from: str
    by_rules: bool
    estimate: Estimate | None


@dataclass(frozen=True)
class Recommendation:
    """The answer, and everything it rests on.

    Attributes:
        spoke: "rules" where they decide, alone or with evidence beside them; "evidence" where near
            trials decide; "depends" where the rules need an answer that was not given.
        comparable: Measured situations that fit what is known, near ones first, then by distance.
        leads: By how much the first is ahead of the second, and of what the rules prefer, in the
            nearest situation.
        flips: What would change the choice.
    """

    situation: Situation
    spoke: Literal["rules", "evidence", "depends"]
    verdicts: Sequence[Verdict]
    candidates: Sequence[Candidate]
    comparable: Sequence[Measured]
    leads: Sequence[str]
    flips: Sequence[str]
    remarks: Sequence[Remark]
    stored_trials: int


def recommend(situation: Situation, fitted: Fitted) -> Recommendation:
    """Return the ranked answer for a situation.

    The rules decide, unless a measured situation is near enough (`Measured.is_near`) to overrule them.
    Where an unanswered question matters, every case is named instead of one being guessed.
    """
    verdicts = decide(situation)
    comparable = sorted(
        sorted((m for m in fitted.situations if m.fits(situation)), key=Measured.weight, reverse=True),
        key=lambda m: (not m.is_near(situation), m.distance(situation)),
    )
    nearest = next(iter(comparable), None)
    near = nearest is not None and nearest.is_near(situation)
    preferred = list(dict.fromkeys(strategy for verdict in verdicts for strategy in verdict.prefer))
    measured_order = [setting.strategy for setting in nearest.ranked()] if nearest else []

    if near:
        spoke: Literal["rules", "evidence", "depends"] = "evidence"
        order = measured_order + preferred
    else:
        spoke = "rules" if len(verdicts) == 1 else "depends"
        order = preferred + measured_order
    candidates = [_candidate(s, s in preferred, nearest) for s in dict.fromkeys(order)]
    return Recommendation(
        situation=situation,
        spoke=spoke,
        verdicts=verdicts,
        candidates=candidates,
        comparable=comparable,
        leads=_leads(nearest, preferred) if nearest else [],
        flips=_flips(situation, verdicts, nearest if near else None),
        remarks=[remark for remark in REMARKS if remark.holds(situation)],
        stored_trials=fitted.trials,
    )


def _candidate(strategy: str, by_rules: bool, nearest: Measured | None) -> Candidate:
    if nearest is None or all(setting.strategy != strategy for setting in nearest.settings):
        start = DEFAULTS[strategy]
        return Candidate(strategy, start.settings, start.source, by_rules, None)
    setting = nearest.best(strategy)
    estimate = Estimate(
        mean=setting.mean_test,
        std=setting.std_test,
        n_trials=len(setting.test),
        trial_ids=setting.trial_ids,
        stores=setting.stores,
        trainable_params=setting.trainable_params,
        trainable_percent=100 * setting.trainable_params / setting.total_params,
        train_seconds=setting.train_seconds,
    )
    where = (
        f"best on valid of {setting.searched} training settings, {nearest.model} on {nearest.task}, "
        f"{nearest.n_train} rows"
    )
    training = {name: setting.train[name] for name in ("lr", "steps", "batch_size", "weight_decay")}
    if not training["weight_decay"]:
        del training["weight_decay"]
    return Candidate(strategy, {**setting.hparams, **training}, where, by_rules, estimate)


def _leads(measured: Measured, preferred: Sequence[str]) -> list[str]:
    """Return what separates the best strategy of a measured situation from the next and from the rules' choice."""
    first, *others = measured.ranked()
    rivals = [other for rank, other in enumerate(others) if rank == 0 or other.strategy == preferred[0]]
    return [_lead(first, rival, measured.shared_seeds()) for rival in rivals]


def _lead(first: Setting, second: Setting, seeds: frozenset[int]) -> str:
    names = f"{first.strategy} - {second.strategy}"
    gap = first.ahead_of(second)
    if gap is None:
        return f"{names}: too few shared seeds for an interval"
    mean, low, high = (100 * value for value in gap)
    settled = "settled" if high > low and (low > 0 or high < 0) else "not settled by these seeds"
    return (
        f"{names}: {mean:+.1f} points on test, paired by seed, 95 % interval {low:+.1f} to {high:+.1f}: "
        f"{settled}{_tie_reason(first, second, seeds)}"
    )


def _tie_reason(first: Setting, second: Setting, seeds: frozenset[int]) -> str:
    if first.mean_valid(seeds) >= second.mean_valid(seeds):
        return ""
    return f"; {first.strategy} goes first because it ties on valid with fewer trainable parameters"


def _flips(situation: Situation, verdicts: Sequence[Verdict], near: Measured | None) -> list[str]:
    """Return what would change the choice, one line each."""
    flips = []
    if near is not None and len(near.ranked()) > 1:
        second = near.ranked()[1]
        flips.append(
            f"more seeds, or another model or task: {second.strategy} is next with test {100 * second.mean_test:.1f}"
        )
    if len(verdicts) > 1:
        return flips
    mine = verdicts[0]
    for question, answers in QUESTIONS.items():
        known = situation.answer(question)
        if known is None:
            continue
        for answer in answers:
            other = decide(situation.with_answer(question, answer)) if answer != known else []
            if len(other) == 1 and other[0].prefer != mine.prefer:
                flips.append(
                    f"{describe(question, answer)} ({flag(question, answer)}): rules say {' or '.join(other[0].prefer)}"
                )
            elif len(other) > 1:
                choices = " or ".join(dict.fromkeys(" / ".join(v.prefer) for v in other))
                flips.append(
                    f"{describe(question, answer)} ({flag(question, answer)}): rules say {choices}, depending on more"
                )
    return flips
