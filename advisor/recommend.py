"""Rules and evidence to a ranked answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from advisor.evidence import PACKAGED, Carry, Fitted, Measured, Published, Rate, Setting, load
from advisor.feasible import Need, need, not_beaten
from advisor.portfolio import Standing, standings
from advisor.rules import DEFAULTS, REMARKS, Defaults, Remark, Verdict, decide
from advisor.situation import LARGE_MODEL_PARAMS, QUESTIONS, Situation, describe, flag

OF_CLASSES = ("accuracy", "balanced_accuracy", "macro_f1")
"""Nobody is asked what kind of work it is: most is classification, so situations of that come first."""
OWN = 0.005
"""Up to this distance it is the very model and number of rows: what was measured on the user's own."""


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
    forgetting: float | None = None
    doubted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """One entry of the ranked answer.

    Attributes:
        settings: Hyperparameters, learning rate included.
        settings_from: Where those come from: a measured situation, or the literature.
        by_rules: Whether the decision table prefers it here.
        estimate: From the nearest measured situation that fits and has it, if there is one.
        behind: How it does over all measured situations that fit.
        published: What figures of others say of it, where they are on models of this class and modality.
        need: Memory, and what must be kept on disk, where the model's size is known.
        not_beaten: No other candidate with trials is as good on test score, trained parameters, seconds and
            forgetting, and better on one of them (the Pareto set).
    """

    strategy: str
    settings: Mapping[str, Any]
    settings_from: str
    by_rules: bool
    estimate: Estimate | None
    behind: Standing | None = None
    published: Sequence[Published] = ()
    need: Need | None = None
    not_beaten: bool = False


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
        carry: How far the scores of the nearest situation are from those of another task, where that is known.
        portfolio: Up to three strategies that make up for one another best over the situations that fit.
        abstains: Nothing that was measured speaks for a candidate: neither trials nor figures of others.
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
    carry: Carry | None = None
    portfolio: Sequence[str] = ()
    abstains: bool = False

    @property
    def feasible(self) -> bool:
        """Whether any candidate fits into the memory there is, as far as that is known."""
        return any(fits(candidate) for candidate in self.candidates)

    def __str__(self) -> str:
        """Return the answer as `advisor recommend` prints it."""
        from advisor.report import as_text  # which takes an answer apart, as everything that shows one

        return as_text(self)

    def _repr_html_(self) -> str:
        """Return the answer as a notebook shows it."""
        from advisor.page import fragment

        return fragment(self)


def recommend(situation: Situation, fitted: Fitted | None = None) -> Recommendation:
    """Return the ranked answer for a situation.

    The rules decide, unless a measured situation is near enough (`Measured.is_near`) to overrule them.
    Where an unanswered question matters, every case is named instead of one being guessed.

    Args:
        situation: What is known.
        fitted: What trials say; what ships with the package, if ``None``.
    """
    fitted = load(PACKAGED) if fitted is None else fitted
    verdicts = decide(situation)
    comparable = sorted(
        sorted((m for m in fitted.situations if m.fits(situation)), key=Measured.weight, reverse=True),
        key=lambda m: (not m.is_near(situation), not _of_classes_or_own(m, situation), m.distance(situation)),
    )
    nearest = next(iter(comparable), None)
    near = nearest is not None and nearest.is_near(situation)
    preferred = list(dict.fromkeys(strategy for verdict in verdicts for strategy in verdict.prefer))
    standing = standings(comparable, situation)
    measured_order = [own.strategy for own in standing]

    if near and nearest is not None:
        spoke: Literal["rules", "evidence", "depends"] = "evidence"
        order = [setting.strategy for setting in nearest.ranked()] + preferred
    else:
        spoke = "rules" if len(verdicts) == 1 else "depends"
        order = preferred + measured_order
    used = comparable[:1] if near else comparable
    candidates = [_candidate(s, s in preferred, used, situation, fitted, standing) for s in dict.fromkeys(order)]
    candidates = _that_fit_first(candidates, situation)
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
        carry=fitted.carries.get("near" if near else "far") if nearest else None,
        portfolio=[own.strategy for own in sorted(standing, key=lambda own: own.place or 99) if own.place],
        abstains=not any(candidate.estimate or candidate.published for candidate in candidates),
    )


def _of_classes_or_own(measured: Measured, situation: Situation) -> bool:
    return measured.metric in OF_CLASSES or measured.distance(situation) < OWN


def _candidate(
    strategy: str,
    by_rules: bool,
    measured: Sequence[Measured],
    situation: Situation,
    fitted: Fitted,
    standing: Sequence[Standing],
) -> Candidate:
    """Return a candidate with what speaks for it: of the first measured situation that has it, and of others."""
    behind = next((own for own in standing if own.strategy == strategy), None)
    published = [own for own in fitted.published if own.strategy == strategy and _of_this_class(own, situation)]
    nearest = next((m for m in measured if any(setting.strategy == strategy for setting in m.settings)), None)
    if nearest is None:
        start = DEFAULTS[strategy]
        settings, source = _with_rate(strategy, start, situation, fitted.rates)
        return Candidate(strategy, settings, source, by_rules, None, behind, published)
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
        forgetting=setting.forgetting,
        doubted={trial: fitted.doubted[trial] for trial in setting.trial_ids if trial in fitted.doubted},
    )
    where = (
        f"best on valid of {setting.searched} training settings, {nearest.model} on {nearest.task}, "
        f"{nearest.n_train} rows"
    )
    training = {name: setting.train[name] for name in ("lr", "steps", "batch_size", "weight_decay")}
    if not training["weight_decay"]:
        del training["weight_decay"]
    return Candidate(strategy, {**setting.hparams, **training}, where, by_rules, estimate, behind, published)


def _that_fit_first(candidates: Sequence[Candidate], situation: Situation) -> list[Candidate]:
    """Return the candidates with what they need; what does not fit into memory goes last, whatever speaks for it.

    Where LoRA does not fit, LoRA over a 4-bit base is a candidate too, if it was none.
    """
    found = [replace(own, need=need(own.strategy, own.settings, situation)) for own in candidates]
    lora = next((own for own in found if own.strategy == "lora"), None)
    if lora and not fits(lora) and all(own.strategy != "qlora" for own in found):
        wanted = need("qlora", lora.settings, situation)
        because = f"LoRA over a 4-bit base, as LoRA does not fit; {lora.settings_from}"
        instead = replace(lora, strategy="qlora", settings_from=because, need=wanted, estimate=None, published=())
        found.insert(found.index(lora) + 1, instead)
    kept = not_beaten([_objectives(own) for own in found])
    found = [replace(own, not_beaten=there) for own, there in zip(found, kept, strict=True)]
    return sorted(found, key=lambda own: not fits(own))


def fits(candidate: Candidate) -> bool:
    """Return whether a candidate may fit into memory."""
    return candidate.need is None or candidate.need.verdict != "does not fit"


def _objectives(candidate: Candidate) -> tuple[float, ...] | None:
    """Return what is to be small: what is lost on test, parameters that train, seconds, forgetting."""
    own = candidate.estimate
    if own is None or not fits(candidate):
        return None
    return -own.mean, own.trainable_params, own.train_seconds, own.forgetting if own.forgetting is not None else 0.0


def _of_this_class(own: Published, situation: Situation) -> bool:
    """Return whether figures of others are on models of the size class and the modality that are asked about."""
    sizes = [size for size in (own.smallest, own.largest) if size is not None]
    of_size = situation.large is None or any((size >= LARGE_MODEL_PARAMS) == situation.large for size in sizes)
    return of_size and (None in (situation.modality, own.modality) or situation.modality == own.modality)


def _with_rate(
    strategy: str, start: Defaults, situation: Situation, rates: Sequence[Rate]
) -> tuple[Mapping[str, Any], str]:
    """Return the settings to start from; for a large model with the rate and rank that many such models had best."""
    mine = [rate for rate in rates if rate.strategy == strategy]
    if not mine or not situation.large:
        return start.settings, start.source

    def gap(rate: Rate) -> float:
        if situation.model_params is None or rate.model_params is None:
            return 0.0 if situation.model_params is rate.model_params else math.inf
        return abs(math.log10(rate.model_params / situation.model_params))

    rate = min(mine, key=gap)
    size = "of unknown size" if rate.model_params is None else f"of {rate.model_params / 1e9:g} B parameters"
    source = (
        f"rate and rank: learned from {rate.backbones} language models in {rate.source}, for one {size}; the rest: "
        f"{start.source}"
    )
    return {**start.settings, "rank": rate.rank, "lr": rate.lr}, source


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
