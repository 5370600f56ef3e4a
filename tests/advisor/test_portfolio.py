"""How strategies do over situations, and how far scores carry: figures worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from advisor.evidence import Measured
from advisor.feasible import need, not_beaten
from advisor.fit import fit
from advisor.portfolio import SHRINK, carries, standings
from advisor.recommend import recommend
from advisor.report import as_text
from advisor.situation import Situation
from sweeper.results import Contents
from tests import small


def measured(**scores: float) -> Measured:
    """One situation in which strategies have these test scores on three seeds."""
    rows = [
        small.row(strategy=name, seed=seed, valid=score, test=score)
        for name, score in scores.items()
        for seed in (0, 1, 2)
    ]
    return fit(Contents(rows, [], {row.trial_id: "results" for row in rows})).situations[0]


ASKED = Situation(model_params=1000, n_train=40)


def test_points_below_the_best_are_means_drawn_towards_that_of_all() -> None:
    found = standings([measured(full=0.8, lora=0.7), measured(full=0.6, lora=0.6, adapter=0.5)], ASKED)
    overall = (0 + 10 + 0 + 0 + 10) / 5
    by_name = {own.strategy: own for own in found}
    assert [own.strategy for own in found] == ["full", "lora", "adapter"]
    assert by_name["full"].behind == pytest.approx((0 + 0 + SHRINK * overall) / (2 + SHRINK))
    assert by_name["lora"].behind == pytest.approx((10 + 0 + SHRINK * overall) / (2 + SHRINK))
    assert by_name["adapter"].behind == pytest.approx((10 + SHRINK * overall) / (1 + SHRINK))
    assert by_name["adapter"].situations == 1


def test_the_three_make_up_for_one_another() -> None:
    """The second of the portfolio is what helps where the first fails, not what is second on average."""
    situations = [
        *[measured(full=0.90, lora=0.89, adapter=0.60, bitfit=0.5)] * 3,
        measured(full=0.50, lora=0.50, adapter=0.90, bitfit=0.4),
    ]
    found = standings(situations, ASKED)
    assert [own.strategy for own in sorted(found, key=lambda own: own.place or 9)][:2] == ["full", "adapter"]
    assert [own.strategy for own in found][:2] == ["full", "lora"]


def test_how_far_scores_carry_needs_tasks_and_weighs_them_alike() -> None:
    def of_task(number: int, score: float) -> Measured:
        own = measured(full=score)
        return Measured(**{**vars(own), "task": f"task {number}"})

    assert carries([of_task(n, 0.5) for n in range(4)]) == {}
    same = carries([of_task(n, 0.5) for n in range(5)])
    assert next(iter(same.values())).points == 0
    apart = carries([of_task(n, 0.5 + 0.1 * (n == 0)) for n in range(10)])
    assert next(iter(apart.values())).points == pytest.approx(10 if len(apart) else math.nan)


@pytest.mark.parametrize("memory", [1e9, 8e9, 16e9, 24e9, 80e9])
def test_what_does_not_fit_goes_last_and_is_never_called_fitting(memory: float) -> None:
    situation = Situation(model_params=7e9, modality="text", gpu_memory=memory)
    answer = recommend(situation, fit_of_one())
    verdicts = [own.need.verdict for own in answer.candidates if own.need]
    assert verdicts == sorted(verdicts, key=lambda own: own == "does not fit")
    for own in answer.candidates:
        if own.need and own.need.verdict == "fits":
            assert own.need.memory_bytes.high <= memory
    assert answer.feasible == any(verdict != "does not fit" for verdict in verdicts)
    if memory == 16e9:
        assert answer.candidates[0].strategy == "qlora", "LoRA over a 4-bit base, where LoRA does not fit"
    if memory == 1e9:
        assert "Nothing of that fits into 1 GB" in as_text(answer)


def fit_of_one() -> Any:
    rows = [small.row(seed=seed) for seed in range(3)]
    return fit(Contents(rows, [], {row.trial_id: "results" for row in rows}))


def test_where_nothing_was_measured_it_abstains() -> None:
    answer = recommend(Situation(large=True, compute="low"), fit_of_one())
    assert answer.abstains
    assert "nothing measured stands behind them" in " ".join(as_text(answer).split())
    near = recommend(Situation(model_params=1000, n_train=40, modality="image", similar=False), fit_of_one())
    assert not near.abstains


def test_needs_are_told_where_the_size_is_known() -> None:
    assert need("lora", {"rank": 8}, Situation(large=True)) is None
    assert need("lora", {"rank": 8}, Situation(model_params=40_000, modality="image")) is None
    found = need("lora", {"rank": 8}, Situation(model_params=125e6, modality="text"))
    assert found is not None
    assert found.verdict is None
    assert found.memory_bytes.low < found.memory_bytes.mean < found.memory_bytes.high


def test_the_pareto_set() -> None:
    found = not_beaten([(1.0, 2.0), (2.0, 1.0), (2.0, 2.0), None, (1.0, 2.0)])
    assert found == [True, True, False, False, True]
