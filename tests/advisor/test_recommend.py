"""Rules and evidence to an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from advisor.evidence import PACKAGED, Fitted, Setting, load
from advisor.explain import explained
from advisor.fit import fit, write
from advisor.published import cited_tables, published
from advisor.recommend import recommend
from advisor.report import as_json, as_text
from advisor.situation import Situation, parse_bytes, parse_count
from sweeper.results import Contents, read_store
from sweeper.spec import Status
from tests import small

SHIPPED = Path(__file__).parent.parent.parent / "results"
NEAR = Situation(model_params=1000, n_train=40, modality="image", similar=False, compute="low")


def fitted(*rows: object) -> Fitted:
    return fit(Contents(list(rows), [], {row.trial_id: "results" for row in rows}))  # type: ignore[arg-type, attr-defined]


def two_strategies(gap: float = 0.1) -> Fitted:
    """LoRA ahead of full by ``gap`` on valid and test, on three seeds."""
    return fitted(
        *(small.row(strategy="lora", seed=seed, valid=0.6 + gap, test=0.5 + gap + 0.01 * seed) for seed in range(3)),
        *(small.row(strategy="full", seed=seed, valid=0.6, test=0.5 - 0.01 * seed) for seed in range(3)),
    )


def test_near_evidence_overrules_the_rules_and_says_by_how_much() -> None:
    answer = recommend(NEAR, two_strategies())
    assert answer.spoke == "evidence"
    assert [c.strategy for c in answer.candidates] == ["lora", "full", "partial_unfreeze"]
    first, _, ruled = answer.candidates
    assert first.estimate is not None
    assert first.estimate.mean == pytest.approx(0.61)
    assert first.estimate.n_trials == 3
    assert first.settings["lr"] == 1e-2
    assert ruled.by_rules
    assert ruled.estimate is None
    assert "which no near trial has tried" in as_text(answer)
    assert "lora - full: +12.0 points" in answer.leads[0]


@pytest.mark.parametrize(
    "change",
    [
        {"model_params": 1e6},
        {"n_train": 400},
        {"modality": None},
        {"similar": None},
        {"model_params": None, "large": False},
        {"n_train": None, "data": "small"},
    ],
)
def test_evidence_from_further_off_is_shown_but_does_not_overrule(change: dict[str, object]) -> None:
    answer = recommend(replace(NEAR, **change), two_strategies())  # type: ignore[arg-type]
    assert answer.spoke in ("rules", "depends")
    assert answer.candidates[0].by_rules
    assert [c.strategy for c in answer.candidates if c.estimate] == ["lora", "full"]
    assert "not near enough to overrule the rules" in " ".join(as_text(answer).split())


@pytest.mark.parametrize(
    "situation",
    [
        Situation(large=True, compute="low"),
        Situation(large=False, data="large", compute="high"),
        Situation(model_params=1000, similar=False, modality="text", data="small"),
    ],
)
def test_without_comparable_trials_the_rules_speak_alone_and_say_so(situation: Situation) -> None:
    answer = recommend(situation, two_strategies())
    assert answer.spoke == "rules"
    assert not answer.comparable
    assert all(c.estimate is None for c in answer.candidates)
    assert "none of the 6 stored trials is comparable: the rules speak alone" in " ".join(as_text(answer).split())


@pytest.mark.parametrize("situation", [NEAR, Situation(), Situation(large=True), replace(NEAR, similar=True)])
def test_the_text_is_at_most_100_columns_wide(situation: Situation) -> None:
    text = as_text(recommend(situation, load(PACKAGED)))
    assert max(map(len, text.splitlines())) <= 100


def test_open_questions_are_not_guessed() -> None:
    answer = recommend(Situation(), two_strategies())
    assert answer.spoke == "depends"
    content = as_json(answer)
    assert set(content["depends_on"]) == {"large", "similar", "data", "compute"}
    assert not answer.comparable, "evidence on small models says nothing about a model of unknown size"
    assert "It depends on what was not said" in as_text(answer)


def test_a_tie_goes_to_fewer_trainable_parameters() -> None:
    rows = [
        *(small.row(strategy="full", seed=seed, valid=0.705, test=0.7) for seed in range(3)),
        *(small.row(strategy="lora", seed=seed, valid=0.7, test=0.7) for seed in range(3)),
    ]
    cheap = [replace(row, metrics={**row.metrics, "trainable_params": 10.0}) for row in rows[3:]]
    answer = recommend(NEAR, fitted(*rows[:3], *cheap))
    assert answer.candidates[0].strategy == "lora"
    assert "goes first because it ties on valid with fewer trainable parameters" in answer.leads[0]


def test_one_lucky_seed_does_not_lead() -> None:
    rows = [
        *(small.row(strategy="full", seed=seed, valid=0.86, test=0.86) for seed in range(5)),
        small.row(strategy="lora", seed=0, valid=0.99, test=0.75),
    ]
    answer = recommend(NEAR, fitted(*rows))
    assert [c.strategy for c in answer.candidates] == ["full", "lora", "partial_unfreeze"]


def test_strategies_are_compared_on_the_seeds_they_share() -> None:
    # On its two easy further seeds full looks better; on the shared three it is not.
    rows = [
        *(small.row(strategy="full", seed=seed, valid=0.5 if seed < 3 else 1.0) for seed in range(5)),
        *(small.row(strategy="lora", seed=seed, valid=0.6) for seed in range(3)),
    ]
    (measured,) = fitted(*rows).situations
    assert measured.shared_seeds() == {0, 1, 2}
    assert [setting.strategy for setting in measured.ranked()] == ["lora", "full"]


def test_a_longer_budget_is_another_situation() -> None:
    longer = [
        replace(row, spec=replace(row.spec, train=replace(row.spec.train, steps=5000)))
        for row in (small.row(strategy="lora", seed=seed, valid=0.99) for seed in range(3))
    ]
    found = fitted(*(small.row(strategy="full", seed=seed, valid=0.6) for seed in range(3)), *longer)
    assert sorted(m.steps for m in found.situations) == [6, 5000]
    for measured in found.situations:
        assert len(measured.ranked()) == 1


def test_what_is_printed_as_evidence_is_the_evidence_used() -> None:
    shipped = load(PACKAGED)
    situation = Situation(model_params=10730, n_train=410, modality="image", similar=False)
    answer = recommend(situation, shipped)
    assert answer.spoke == "evidence"
    nearest = answer.comparable[0]
    assert nearest.is_near(situation)
    assert nearest.distance(situation) > min(m.distance(situation) for m in answer.comparable)
    first = answer.candidates[0].estimate
    assert first is not None
    assert set(first.trial_ids) <= {id_ for setting in nearest.settings for id_ in setting.trial_ids}
    text = as_text(answer)
    assert f"near: {nearest.model}" in text
    assert "not near enough" not in text


def test_a_large_model_on_a_small_budget_is_for_the_rules() -> None:
    (measured,) = two_strategies().situations
    large = Fitted(6, "", [replace(measured, model_params=2e9)])
    near = Situation(model_params=3e9, n_train=40, modality="image", similar=False, compute="high")
    assert recommend(near, large).spoke == "evidence"
    answer = recommend(replace(near, compute="low"), large)
    assert answer.spoke == "rules"
    assert answer.candidates[0].strategy == "lora"


def test_a_task_without_a_source_domain_can_be_near() -> None:
    (measured,) = two_strategies().situations
    sourceless = Fitted(6, "", [replace(measured, similar=None, similarity=None, untouched=None)])
    assert recommend(NEAR, sourceless).spoke == "evidence"
    assert recommend(replace(NEAR, similar=None), sourceless).spoke == "evidence"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_params", None),
        ("n_train", "many"),
        ("similar", "x"),
        ("similarity", []),
        ("untouched", {}),
        ("settings", []),
        ("settings.seeds", None),
        ("settings.valid", [float("nan")] * 3),
        ("settings.test", [0.5]),
        ("settings.trial_ids", 5),
        ("settings.trainable_params", None),
        ("settings.hparams", []),
    ],
)
def test_a_fitted_file_with_a_bad_value_is_refused(tmp_path: Path, name: str, value: object) -> None:
    content = json.loads(two_strategies().to_json())
    place = content["situations"][0]
    *inside, key = name.split(".")
    if inside:
        place = place["settings"][0]
    place[key] = value
    (tmp_path / "fitted.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not a fitted file"):
        load(tmp_path / "fitted.json")


def test_deleting_the_rows_of_a_strategy_removes_its_estimate() -> None:
    everything = two_strategies()
    (measured,) = everything.situations
    rest = replace(measured, settings=[s for s in measured.settings if s.strategy != "lora"])
    answer = recommend(NEAR, replace(everything, situations=[rest]))
    assert all(c.strategy != "lora" or c.estimate is None for c in answer.candidates)
    assert answer.candidates[0].strategy == "full"


def test_every_flip_is_true() -> None:
    answer = recommend(Situation(large=False, similar=False, data="small", compute="low"), two_strategies())
    assert any("--task-similar" in flip and "feature_extraction" in flip for flip in answer.flips)
    other = recommend(Situation(large=False, similar=True, data="small", compute="low"), two_strategies())
    assert other.verdicts[0].prefer == ("feature_extraction",)
    assert not any("--compute" in flip for flip in answer.flips), "compute does not matter there"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=60))
def test_the_lead_is_students_paired_interval(scores: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*scores, strict=True)
    common = {"hparams": {}, "train": {}, "searched": 1, "trainable_params": 1.0, "total_params": 1.0}
    common |= {"train_seconds": 0.1, "trial_ids": [], "stores": {}, "valid": list(ours)}
    seeds = list(range(len(scores)))
    one = Setting(strategy="a", test=ours, seeds=seeds, **common)  # type: ignore[arg-type]
    other = Setting(strategy="b", test=theirs[::-1], seeds=seeds[::-1], **common)  # type: ignore[arg-type]
    gap = one.ahead_of(other)
    assert gap is not None
    differences = [a - b for a, b in scores]
    spread = stats.sem(differences)
    assert gap[0] == pytest.approx(sum(differences) / len(differences), abs=1e-9)
    if spread > 1e-12:
        low, high = stats.t.interval(0.95, len(differences) - 1, loc=gap[0], scale=spread)
        assert gap[1:] == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


def test_fitting_twice_gives_the_same_file_and_reading_it_gives_the_same_answer(tmp_path: Path) -> None:
    once = two_strategies()
    write(once, tmp_path / "a" / "advisor.json")
    again = load(tmp_path / "a" / "advisor.json")
    assert again.to_json() == once.to_json() == two_strategies().to_json()
    assert as_json(recommend(NEAR, again)) == as_json(recommend(NEAR, once))


def test_a_store_without_complete_trials_is_refused() -> None:
    failed = replace(small.row(), status=Status.FAILED)
    with pytest.raises(ValueError, match="no complete trial to fit from"):
        fitted(failed)


def test_similarity_is_measured_not_guessed() -> None:
    (measured,) = two_strategies().situations
    assert measured.similarity == pytest.approx(0.4 / 0.8)
    assert measured.similar is False


def test_the_shipped_fit_is_that_of_the_shipped_rows() -> None:
    fresh = fit(read_store(SHIPPED / "shipped"), *published(cited_tables(SHIPPED / "shipped")))
    shipped = json.loads(PACKAGED.read_text())
    again = json.loads(fresh.to_json())
    for content in (shipped, again):
        for situation in content["situations"]:
            for setting in situation["settings"]:
                setting["stores"] = sum(setting["stores"].values())  # the folder's name differs by where one stands
    assert again == shipped


def test_the_shipped_fit_answers_and_leaves_the_three_scenarios_alone() -> None:
    shipped = load(PACKAGED)
    assert shipped.trials >= 500
    scenarios = [
        (Situation(large=True, compute="low"), ("lora", "prompt_tuning")),
        (Situation(large=False, similar=True, data="large", compute="high"), ("full",)),
        (Situation(large=False, similar=False, data="small", compute="low"), ("partial_unfreeze",)),
    ]
    for situation, prefer in scenarios:
        answer = recommend(situation, shipped)
        assert answer.spoke == "rules"
        assert tuple(c.strategy for c in answer.candidates[: len(prefer)]) == prefer


@pytest.mark.parametrize(
    ("text", "value"), [("7B", 7e9), ("350m", 350e6), ("40k", 4e4), ("6.7e9", 6.7e9), ("124000", 124e3)]
)
def test_numbers_of_parameters(text: str, value: float) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("16GB", 16e9), ("24GiB", 24 * 2**30), ("512MB", 512e6), ("8", 8e9), ("1TB", 1e12)]
)
def test_amounts_of_memory(text: str, value: float) -> None:
    assert parse_bytes(text) == value


@given(st.text(max_size=12))
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    for parse in (parse_count, parse_bytes):
        try:
            value = parse(text)
        except ValueError as error:
            value, message = 1.0, str(error)
            assert "\n" not in message
        assert value > 0


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"model_params": 1e9}, {"large": False}),
        ({"model_params": 1.1e9}, {"large": True}),
        ({"n_train": 2_000}, {"data": "small"}),
        ({"n_train": 2_001}, {"data": "medium"}),
        ({"n_train": 50_001}, {"data": "large"}),
        ({"gpu_memory": 16e9}, {"compute": "low"}),
        ({"gpu_memory": 24e9}, {"compute": "medium"}),
        ({"gpu_memory": 80e9}, {"compute": "high"}),
    ],
)
def test_numbers_become_words(numbers: dict[str, float], words: dict[str, object]) -> None:
    situation = Situation(**numbers)  # type: ignore[arg-type]
    assert {name: situation.answer(name) for name in words} == words


def test_without_the_rows_of_the_first_the_advice_is_another_and_says_what_is_not_known() -> None:
    """From the store itself: all rows of what is advised deleted, and the advisor fitted again."""
    rows = [
        row
        for row in read_store(SHIPPED / "shipped").results
        if (row.spec.model, row.spec.task) == ("small_cnn", "digits_shifted") and row.status is Status.COMPLETE
    ]
    asked = Situation(model_params=40_000, n_train=100, modality="image", similar=False)
    first = recommend(asked, fitted(*rows)).candidates[0].strategy
    assert first == "full"
    answer = recommend(asked, fitted(*(row for row in rows if row.spec.strategy != first)))
    assert answer.candidates[0].strategy != first
    assert all(own.estimate is None and own.behind is None for own in answer.candidates if own.strategy == first)


@pytest.mark.parametrize("strategy", [None, "full", "partial_unfreeze"])
def test_an_explanation_names_rules_trials_needs_and_what_would_flip(strategy: str | None) -> None:
    answer = recommend(replace(NEAR, compute=None), two_strategies())
    text = " ".join(explained(answer, strategy).split())
    place = 0 if strategy is None else [own.strategy for own in answer.candidates].index(strategy)
    own = answer.candidates[place]
    assert text.startswith(f"{own.strategy} is number {place + 1} of {len(answer.candidates)}.")
    assert ("A rule prefers it" in text) == own.by_rules
    if own.estimate is None:
        assert "what it scores here is not known" in text
    else:
        assert all(trial in text for trial in own.estimate.trial_ids)
    if place == 0:
        assert "The runner-up is full" in text
        assert all(flip in text for flip in map(" ".join, map(str.split, answer.flips)))
    with pytest.raises(ValueError, match="no candidate named 'magic'"):
        explained(answer, "magic")
