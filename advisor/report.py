"""A recommendation as text and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from advisor.evidence import Measured, Published
from advisor.feasible import Need
from advisor.recommend import Candidate, Recommendation, fits
from advisor.rules import Rule, Verdict
from advisor.situation import QUESTIONS, describe, flag

WIDTH = 100


def as_json(answer: Recommendation) -> dict[str, Any]:
    """Return the whole answer as plain JSON values."""
    return {
        "situation": asdict(answer.situation),
        "spoke": answer.spoke,
        "candidates": [{"rank": rank, **asdict(c)} for rank, c in enumerate(answer.candidates, start=1)],
        "rules": [
            {
                "given": {question: list(answers) for question, answers in verdict.given.items()},
                "prefer": list(verdict.prefer),
                "rules": [{"name": r.name, "because": r.because, "source": r.source} for r in verdict.rules],
            }
            for verdict in answer.verdicts
        ],
        "depends_on": list(dict.fromkeys(question for verdict in answer.verdicts for question in verdict.given)),
        "evidence": {
            "stored_trials": answer.stored_trials,
            "comparable": [
                {
                    "model": m.model,
                    "task": m.task,
                    "n_train": m.n_train,
                    "steps": m.steps,
                    "model_params": m.model_params,
                    "modality": m.modality,
                    "similar": m.similar,
                    "similarity": m.similarity,
                    "untouched_test_score": m.untouched,
                    "near": m.is_near(answer.situation),
                }
                for m in answer.comparable
            ],
            "leads": list(answer.leads),
            "carry": None if answer.carry is None else asdict(answer.carry),
            "portfolio": list(answer.portfolio),
        },
        "abstains": answer.abstains,
        "feasible": answer.feasible,
        "flips": list(answer.flips),
        "remarks": [{"text": remark.text, "source": remark.source} for remark in answer.remarks],
    }


def as_text(answer: Recommendation) -> str:
    """Return the answer for a person to read, at most 100 columns wide."""
    return "\n".join(_lines(answer)) + "\n"


def in_a_line(answer: Recommendation) -> str:
    """Return what the answer comes to, in a line."""
    return " ".join(headline(answer))


def _lines(answer: Recommendation) -> Iterator[str]:
    yield from _headline(answer)
    yield ""
    for rank, candidate in enumerate(answer.candidates, start=1):
        yield from _candidate(rank, candidate)
    yield ""
    yield "Why (rules):"
    for rule in dict.fromkeys(rule.name for verdict in answer.verdicts for rule in verdict.rules):
        yield from _reason(next(r for verdict in answer.verdicts for r in verdict.rules if r.name == rule))
    yield "Evidence:"
    for sentence in evidence(answer):
        yield from bullet(sentence)
    if answer.flips:
        yield "What would flip the choice:"
        for flip in answer.flips:
            yield from bullet(flip)
    yield "Also:"
    for remark in answer.remarks:
        yield from bullet(f"{remark.text} ({remark.source})")


def _reason(rule: Rule) -> Iterator[str]:
    yield from bullet(f"{' or '.join(rule.prefer)}: {rule.because}.")
    yield from bullet(f"Source: {rule.source}.", mark=" ")


def _headline(answer: Recommendation) -> Iterator[str]:
    known, first, *rest = headline(answer)
    yield known
    yield from bullet(first, 0, mark="")
    for line in rest:
        yield from bullet(line) if answer.spoke == "depends" else bullet(line, 0, mark="")


def headline(answer: Recommendation) -> list[str]:
    """Return what is known, what the answer comes to, and what is to be said of it at once: a sentence each."""
    known = [describe(q, value) for q in QUESTIONS if (value := answer.situation.answer(q)) is not None]
    return [f"For {', '.join(known) if known else 'a situation of which nothing is known'}:", *_comes_to(answer)]


def _comes_to(answer: Recommendation) -> Iterator[str]:
    if answer.spoke == "depends":
        yield "It depends on what was not said:"
        for verdict in answer.verdicts:
            flags = " ".join(flag(question, answers[0]) for question, answers in verdict.given.items())
            yield f"{_given(verdict)}: {' or '.join(verdict.prefer)} ({flags})"
        return
    if answer.spoke == "rules":
        yield f"{' or '.join(answer.verdicts[0].prefer)}, by the rules."
        yield from what_fits(answer)
        return
    first = answer.candidates[0]
    yield f"{first.strategy} ({settings_text(first.settings)}), by trials of a near situation."
    prefer = answer.verdicts[0].prefer
    if len(answer.verdicts) == 1 and first.strategy not in prefer:
        tried = any(c.estimate is not None for c in answer.candidates if c.strategy in prefer)
        yield f"The rules alone would say {' or '.join(prefer)}" + (
            "; the near trials say otherwise." if tried else ", which no near trial has tried."
        )


def what_fits(answer: Recommendation) -> Iterator[str]:
    """Yield what memory leaves of what the rules prefer, where that is not all."""
    prefer, memory = answer.verdicts[0].prefer, answer.situation.gpu_memory
    if memory is None or all(fits(own) for own in answer.candidates if own.strategy in prefer):
        return
    fitting = [own.strategy for own in answer.candidates if fits(own)]
    yield (
        f"Of that, what fits into {memory / 1e9:g} GB: {', '.join(fitting)}."
        if fitting
        else f"Nothing of that fits into {memory / 1e9:g} GB, not with one row at a time: take a smaller model."
    )


def _given(verdict: Verdict) -> str:
    parts = []
    for question, answers in verdict.given.items():
        if question in ("large", "similar"):
            parts.append(describe(question, answers[0]))
        else:
            parts.append(f"{' or '.join(map(str, answers))} {question}")
    return "with " + ", ".join(parts)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings in words."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )


def _candidate(rank: int, candidate: Candidate) -> Iterator[str]:
    mark = " [rules]" if candidate.by_rules else ""
    yield from bullet(f"{candidate.strategy}{mark}: {settings_text(candidate.settings)}", indent=0, mark=f"{rank:2}.")
    if candidate.need is not None:
        yield from bullet(needed(candidate.need), indent=4, mark="")
    estimate = candidate.estimate
    if estimate is None:
        yield from bullet(f"settings: {candidate.settings_from}; no trial", indent=4, mark="")
        for own in candidate.published:
            yield from bullet(published_text(own), indent=4, mark="", breaking=True)
        return
    spread = f" ± {100 * estimate.std:.1f}" if estimate.std is not None else ""
    yield from bullet(
        f"test {100 * estimate.mean:.1f}{spread}, {estimate.n_trials} trials ({_stores(estimate.stores)}: "
        f"{', '.join(estimate.trial_ids[:2])}{', ...' if len(estimate.trial_ids) > 2 else ''}); "
        f"{estimate.trainable_params:,.0f} trainable ({estimate.trainable_percent:.1f} %), "
        f"{estimate.train_seconds:.2f} s"
        + (f", forgets {100 * estimate.forgetting:.1f}" if estimate.forgetting is not None else "")
        + ("; in the Pareto set" if candidate.not_beaten else ""),
        indent=4,
        mark="",
    )


def needed(own: Need) -> str:
    """Return what a candidate needs, in a sentence."""
    memory = own.memory_bytes
    fits = f": {own.verdict}" if own.verdict else ""
    return (
        f"needs {memory.mean / 1e9:.1f} ({memory.low / 1e9:.1f} to {memory.high / 1e9:.1f}) GB of memory "
        f"({own.under}){fits}; {own.adapter_bytes / 1e6:,.1f} MB on disk"
    )


def published_text(own: Published) -> str:
    """Return what figures of others say, in a sentence."""
    best = f", best in {own.best_in}" if own.best_in else ""
    memory = f", peak memory {own.peak_memory_bytes / 1e9:.1f} GB" if own.peak_memory_bytes else ""
    return (
        f"others: {own.behind:.1f} points below the best on average in {own.situations} "
        f"situation{'s' * (own.situations > 1)}{best}; {own.score:.3g} on {own.task} with {own.backbone}{memory} "
        f"({own.row})"
    )


def _stores(stores: Mapping[str, int]) -> str:
    return ", ".join(stores)


def evidence(answer: Recommendation) -> Iterator[str]:
    """Yield what was measured, and how far it goes: a sentence each."""
    if answer.situation.large is None:
        yield ("not consulted: it says nothing before the model's size is known (--model-params).")
        return
    if not answer.comparable:
        yield (
            f"none of the {answer.stored_trials} stored trials is comparable: the rules speak alone"
            + (", and nothing measured stands behind them" if answer.abstains else ", beside figures of others")
            + ". `advisor next` names the trials that would settle it."
        )
        return
    nearest = answer.comparable[0]
    near = nearest.is_near(answer.situation)
    similar = {True: "similar to its source", False: "different from its source", None: "without a source"}[
        nearest.similar
    ]
    yield (
        f"{'near' if near else 'fits the answers'}: {nearest.model} ({nearest.model_params:,.0f} parameters) on "
        f"{nearest.task}, {nearest.n_train} rows, {nearest.steps} steps, {nearest.modality}, {similar}"
        + (f" (similarity {nearest.similarity:.2f})" if nearest.similarity is not None else "")
        + (f"; {len(answer.comparable) - 1} more situations fit" if len(answer.comparable) > 1 else "")
        + ". Scores are mean ± std over seeds; `sweeper show TRIAL` shows a trial."
    )
    if nearest.untouched is not None:
        yield _against_untouched(nearest, nearest.untouched)
    yield from answer.leads
    if answer.carry is not None:
        yield (
            f"on another task expect these test scores within {answer.carry.points:.0f} points: 9 in 10 were, on "
            f"{answer.carry.tasks} tasks left out one after the other"
        )
    if len(answer.comparable) > 1:
        yield _over_all(answer)
    doubted = {trial: why for c in answer.candidates if c.estimate for trial, why in c.estimate.doubted.items()}
    if doubted:
        first = "; ".join(f"{trial}: {why}" for trial, why in list(doubted.items())[:2])
        yield (f"{len(doubted)} of these trials stand alone among their seeds ({first})")
    if not near:
        yield (
            "not near enough to overrule the rules: name --model-params, --n-train, --modality and --task-similar or "
            "--task-different for that."
        )


def _over_all(answer: Recommendation) -> str:
    """Return how strategies do over all situations that fit."""
    known = sorted((c.behind for c in answer.candidates if c.behind is not None), key=lambda own: own.behind)
    least = ", ".join(f"{own.strategy} {own.behind:.1f} ({own.situations})" for own in known[:3])
    return (
        f"over all {len(answer.comparable)} situations, near ones counting more, points below the best: {least}; three "
        f"that make up for one another: {', '.join(answer.portfolio)}"
    )


def _against_untouched(measured: Measured, untouched: float) -> str:
    ranked = measured.ranked()
    above = sum(setting.mean_test > untouched for setting in ranked)
    return (
        f"the source model before training has test {100 * untouched:.1f}; {above} of {len(ranked)} strategies end "
        f"above it"
    )


def bullet(text: str, indent: int = 2, mark: str = "-", breaking: bool = False) -> Sequence[str]:
    """Return a text as lines of a list, at most `WIDTH` wide; ``breaking`` also breaks words, where paths are long."""
    first = " " * indent + (f"{mark} " if mark else "")
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=breaking,
        break_on_hyphens=False,
    )
