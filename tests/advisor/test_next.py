"""`advisor next`: which trials would settle the choice, as a grid that launches."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from advisor.evidence import Fitted, Setting, t_quantile
from advisor.fit import fit, write
from advisor.next_trials import MOST_SEEDS, next_trials, seeds_to_settle, to_toml
from advisor.own import read
from advisor.recommend import recommend
from advisor.situation import Situation
from sweeper.grid import load_grid
from sweeper.results import Contents
from sweeper.spec import TrialResult
from tests import small
from tests.advisor.test_probe import Asking, ask  # noqa: F401  # a fixture
from tests.conftest import Called

NEAR = Situation(model_params=1000, n_train=40, modality="image", similar=False)
SITUATION = ("--model-params", "1000", "--n-train", "40", "--modality", "image", "--task-different")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(60, 4))
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "kind": np.where(x[:, 3] > 0, "up", "down")}).to_csv(
        "it.csv", index=False
    )
    return tmp_path


def fitted(*rows: TrialResult) -> Fitted:
    return fit(Contents(list(rows), [], {row.trial_id: "results" for row in rows}))


def rows_of(strategy: str, tests: Sequence[float]) -> list[TrialResult]:
    return [small.row(strategy=strategy, seed=seed, valid=test, test=test) for seed, test in enumerate(tests)]


# full leads LoRA by 2 points on average, by 0 to 4; BitFit is far behind.
OPEN = fitted(
    *rows_of("full", [0.80, 0.82, 0.84]), *rows_of("lora", [0.80, 0.80, 0.80]), *rows_of("bitfit", [0.5, 0.52, 0.54])
)
SETTLED = fitted(*rows_of("full", [0.80, 0.81, 0.82]), *rows_of("lora", [0.70, 0.712, 0.72]))


def setting(strategy: str, test: Sequence[float]) -> Setting:
    (measured,) = fitted(*rows_of(strategy, test)).situations
    return measured.settings[0]


def test_an_open_lead_asks_for_as_many_seeds_as_would_settle_it() -> None:
    found = next_trials(recommend(NEAR, OPEN), None)
    assert found.grid is not None
    assert [entry["name"] for entry in found.grid["strategies"]] == ["full", "lora"], "BitFit is settled"
    # Gaps of 0, 2 and 4 points: t(n - 1) * 2 / sqrt(n) < 2 from n = 7 on, of which three are there.
    assert stats.t.ppf(0.975, 5) / math.sqrt(6) > 1 > stats.t.ppf(0.975, 6) / math.sqrt(7)
    assert found.grid["seeds"] == [3, 4, 5, 6]
    assert found.trials == 8
    assert "about 7 seeds would settle it" in found.why[1]


def test_more_seeds_are_those_of_the_same_trials(place: Path) -> None:
    (place / "next.toml").write_text(to_toml(next_trials(recommend(NEAR, OPEN), None)))
    trials = load_grid("next.toml").trials
    assert {trial.seed for trial in trials} == {3, 4, 5, 6}
    earlier = {replace(trial, seed=seed).trial_id for trial in trials for seed in range(3)}
    assert earlier == {i for s in OPEN.situations[0].settings if s.strategy != "bitfit" for i in s.trial_ids}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [([0.8, 0.82, 0.84], [0.8] * 3), ([0.8, 0.9], [0.7, 0.7]), ([0.8, 0.83, 0.79, 0.84], [0.80, 0.8, 0.79, 0.8])],
)
def test_the_number_of_seeds_is_the_least_whose_interval_is_without_0(
    ours: Sequence[float], theirs: Sequence[float]
) -> None:
    gaps = np.subtract(ours, theirs)
    number = seeds_to_settle(setting("full", ours), setting("lora", theirs))
    assert number is not None
    for n, decides in ((number, True), (number - 1, False)):
        if n > 1:
            assert bool(t_quantile(n - 1) * gaps.std(ddof=1) / math.sqrt(n) < abs(gaps.mean())) is decides


def test_what_the_seeds_cannot_say_is_not_said() -> None:
    assert seeds_to_settle(setting("full", [0.8]), setting("lora", [0.7])) is None
    assert seeds_to_settle(setting("full", [0.8, 0.7]), setting("lora", [0.7, 0.8])) is None
    one_seed = fitted(*rows_of("full", [0.8]), *rows_of("lora", [0.7]))
    found = next_trials(recommend(NEAR, one_seed), None)
    assert found.grid is not None
    assert found.grid["seeds"] == [1, 2]
    assert "do not say how many it takes" in found.why[1]


def test_a_gap_too_small_to_settle_is_bounded_and_the_cheaper_named() -> None:
    rows = [*rows_of("full", [0.800, 0.821, 0.780]), *rows_of("lora", [0.799, 0.799, 0.799])]
    cheap = [replace(row, metrics={**row.metrics, "trainable_params": 10.0}) for row in rows[3:]]
    found = next_trials(recommend(NEAR, fitted(*rows[:3], *cheap)), None)
    assert found.grid is not None
    assert len(found.grid["seeds"]) == MOST_SEEDS - 3
    assert "more than it is worth: take the cheaper (lora)" in found.why[1]


def test_a_settled_lead_asks_for_nothing(ask: Asking, place: Path) -> None:  # noqa: F811
    found = next_trials(recommend(NEAR, SETTLED), None)
    assert (found.grid, found.trials) == (None, 0)
    assert "full leads lora by +9.9 points" in found.why[1]
    write(SETTLED, place / "fitted.json")
    code, out, err = ask("next", *SITUATION, "--fitted", "fitted.json", "--output", "next.toml")
    assert code == 0
    assert out.startswith("Settled in the nearest situation (mlp on digits_shifted, 40 rows, 6 steps):")
    assert "No trials to run. next.toml was not written." in err
    assert not (place / "next.toml").exists()


@pytest.mark.parametrize("folder", ["", "grids/"])
def test_own_rows_give_a_grid_that_launches(ask: Asking, called: Called, place: Path, folder: str) -> None:  # noqa: F811
    (place / "grids").mkdir()
    file = f"{folder}next.toml"
    asked = ("next", "--data", "it.csv", "--label-column", "kind", "--seeds", "4", "--output", file)
    code, out, _ = ask(*asked)
    assert code == 0
    assert out.splitlines()[-1] == f"sweeper launch --grid {file}"
    code, plan, err = called("launch", "--grid", file, "--dry-run", "--format", "json")
    assert code == 0, err
    assert not (place / "results").exists()
    content = json.loads(plan)
    trials = content["trials"]
    assert not content["left_out"], "what cannot run was left out before"
    assert f"{len(trials)} trials of 120 steps" in out
    assert {trial["seed"] for trial in trials} == {0, 1, 2, 3}
    assert {trial["train"]["steps"] for trial in trials} == {120}
    assert len({trial["strategy"] for trial in trials}) == 4
    assert "full" in {trial["strategy"] for trial in trials}, "the baseline"
    before = (place / file).read_text()
    code, out, err = ask(*asked)
    assert (code, out) == (2, "")
    assert "is there already" in err
    assert (place / file).read_text() == before


def test_trials_of_own_rows_get_more_seeds(called: Called, place: Path) -> None:
    own = read("it.csv", None, {"label_column": "kind"})
    (measured,) = fitted(
        *rows_of("full", [0.80, 0.82, 0.84]), *rows_of("partial_unfreeze", [0.80, 0.80, 0.80])
    ).situations
    here = replace(
        measured,
        model=own.place.model,
        task=own.place.task,
        n_train=own.n_train,
        model_params=own.model_params,
        modality="tabular",
        similar=None,
    )
    situation = Situation(model_params=own.model_params, n_train=own.n_train, modality="tabular")
    (place / "next.toml").write_text(to_toml(next_trials(recommend(situation, Fitted(6, "", [here])), own)))
    code, out, err = called("launch", "--grid", "next.toml", "--dry-run")
    assert code == 0, err
    assert out.count(f"new  mlp {own.place.task} n_train={own.n_train} ") == 2 * 4


def test_rows_that_stand_in_launch_too(ask: Asking, called: Called) -> None:  # noqa: F811
    situation = ("--model-params", "40k", "--n-train", "80", "--modality", "image")
    code, out, _ = ask("next", *situation, "--format", "json")
    assert code == 0
    content = json.loads(out)
    (model,), (task,) = content["grid"]["models"], content["grid"]["tasks"]
    assert content["grid"]["n_train"] == [80]
    assert (content["file"], content["launch"]) == (None, None)
    assert "stands in for your model and rows, of which it may say little" in content["why"][0]
    assert ask("next", *situation, "--output", "next.toml")[0] == 0
    code, out, _ = called("launch", "--grid", "next.toml", "--dry-run")
    assert code == 0
    assert out.count(f" {model} {task} n_train=80 ") == content["trials"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "or say --modality, --model-params, --n-train for trials that stand in for them"),
        ("--large-model --compute low", "--data FILE (--model NAME) names them"),
        ("--model-params 7B --n-train 100 --modality text", "--data FILE --model hf:NAME runs it on your rows"),
        ("--data it.csv --label-column kind --output next.json", "--output must end in .toml, got 'next.json'"),
        ("--data it.csv --label-column kind --output no/next.toml", "there is no folder 'no'"),
        ("--data it.csv --label-column kind --seeds 1", "1 is not in the range"),
        ("--model mlp", "--model is for --data DATA"),
    ],
)
def test_bad_input_is_one_line(ask: Asking, place: Path, line: str, says: str) -> None:  # noqa: F811
    code, out, err = ask("next", *line.split())
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert says in last
    assert {path.name for path in place.iterdir()} <= {"it.csv", "kept"}


def test_names_in_a_grid_file_are_quoted(place: Path) -> None:
    found = next_trials(recommend(NEAR, OPEN), None)
    assert found.grid is not None
    odd = replace(found, why=["line\nquestion = 1"], grid={**found.grid, "question": 'What of "this"\\ \n?'})
    (place / "odd.toml").write_text(to_toml(odd))
    assert load_grid("odd.toml").question == 'What of "this"\\ \n?'
