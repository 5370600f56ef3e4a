"""Promises of the decision table: SPEC S4, every cell, and nothing guessed."""

from __future__ import annotations

import itertools

import pytest

from advisor.rules import DECISION_TABLE, DEFAULTS, REMARKS, Verdict, decide
from advisor.situation import QUESTIONS, Situation

PROMPTS = ("prompt_tuning", "prefix_tuning")


def expected(large: bool, similar: bool, data: str, compute: str) -> tuple[str, ...]:
    """The table of SPEC S4, written out a second time."""
    if large:
        if compute == "low":
            return ("lora", "prompt_tuning")
        return PROMPTS if data == "small" else ("lora",)
    if data == "large" and compute == "high":
        return ("full",)
    if similar and data in ("small", "medium"):
        return ("feature_extraction",)
    return ("partial_unfreeze",)


complete = list(itertools.product(*QUESTIONS.values()))


@pytest.mark.parametrize("answers", complete)
def test_every_cell_of_the_table(answers: tuple[object, ...]) -> None:
    situation = Situation(**dict(zip(QUESTIONS, answers, strict=True)))  # type: ignore[arg-type]
    (verdict,) = decide(situation)
    assert verdict.prefer == expected(*answers)  # type: ignore[arg-type]
    assert not verdict.given


partial = list(itertools.product(*((None, *answers) for answers in QUESTIONS.values())))


def applies(verdict: Verdict, answers: dict[str, object]) -> bool:
    return all(answers[question] in allowed for question, allowed in verdict.given.items())


@pytest.mark.parametrize("known", partial)
def test_an_open_question_is_answered_for_every_case_and_asked_only_if_it_matters(known: tuple[object, ...]) -> None:
    open_situation = dict(zip(QUESTIONS, known, strict=True))
    verdicts = decide(Situation(**open_situation))  # type: ignore[arg-type]
    outcomes = set()
    for answers in complete:
        whole = dict(zip(QUESTIONS, answers, strict=True))
        if any(value is not None and whole[question] != value for question, value in open_situation.items()):
            continue
        fitting = [verdict for verdict in verdicts if applies(verdict, whole)]
        assert [verdict.prefer for verdict in fitting] == [expected(*answers)]  # type: ignore[arg-type]
        outcomes.add(expected(*answers))  # type: ignore[arg-type]
    assert {verdict.prefer for verdict in verdicts} == outcomes
    assert all(open_situation[question] is None for verdict in verdicts for question in verdict.given)
    assert (len(verdicts) == 1) == (len(outcomes) == 1)


@pytest.mark.parametrize(
    ("situation", "prefer"),
    [
        (Situation(model_params=7e9, compute="low"), ("lora", "prompt_tuning")),
        (Situation(model_params=110e6, similar=True, data="large", compute="high"), ("full",)),
        (Situation(model_params=124e6, similar=False, data="small", compute="low"), ("partial_unfreeze",)),
    ],
    ids=["7B on a laptop", "BERT with lots of data", "GPT-2 in a niche"],
)
def test_the_three_scenarios(situation: Situation, prefer: tuple[str, ...]) -> None:
    (verdict,) = decide(situation)
    assert verdict.prefer == prefer


def test_every_rule_has_a_reason_and_a_source_and_settings_to_start_from() -> None:
    for rule in DECISION_TABLE:
        assert rule.because
        assert "arXiv" in rule.source
        assert set(rule.prefer) <= set(DEFAULTS)
    for remark in REMARKS:
        assert "arXiv" in remark.source
    for defaults in DEFAULTS.values():
        assert "lr" in defaults.settings
        assert defaults.source
