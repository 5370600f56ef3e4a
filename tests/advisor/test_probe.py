"""`advisor recommend --data` and `--probe`: what is read off rows, short trials within the time, a second answer."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from advisor.cli import cli
from advisor.contenders import contender, contenders, rates_around
from advisor.evidence import PACKAGED, Fitted, load
from advisor.fit import fit, write
from advisor.own import OwnRows, Place, read
from advisor.pace import DOUBT, TIME_IS_UP, Pace, Runner
from advisor.probe import Probed, TooShortError, probe
from advisor.probe_report import as_json, as_text, settled
from advisor.race import FEWEST_SEEDS, LEAST_SEEDS, Race, Round, Score
from advisor.recommend import Candidate, Estimate, recommend
from advisor.situation import Situation
from sweeper.command import run as run_command
from sweeper.grid import load_grid
from sweeper.models.tokens import MAX_TOKENS
from sweeper.own_data import defaults
from sweeper.results import Contents, ResultsStore
from sweeper.spec import Status
from tests.conftest import Called

Asking = Callable[..., tuple[int, str, str]]
NOTHING = Fitted(0, "", [])
N_TRAIN, STEPS = 91, 30


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Be in a folder with a small table, and have few steps suit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_DATA", str(folder / "kept"))
        patch.chdir(folder)
        patch.setattr("advisor.own.defaults", lambda prepared, model: {**defaults(prepared, model), "steps": STEPS})
        x = np.random.default_rng(0).normal(size=(150, 6))
        label = np.where(x[:, 0] * x[:, 1] + 0.5 * x[:, 2] > 0, "yes", "no")
        pd.DataFrame({**{f"f{i}": x[:, i] for i in range(6)}, "label": label}).to_csv("it.csv", index=False)
        yield folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> Iterator[Path]:
    with workplace(tmp_path) as folder:
        yield folder


@pytest.fixture(scope="module")
def without_haste(tmp_path_factory: pytest.TempPathFactory) -> Probed:
    """A probe that had all the time it wanted, into the store ``results``."""
    with workplace(tmp_path_factory.mktemp("probed")) as folder:
        return probed(1e6, str(folder / "results"), elsewhere())


def elsewhere() -> Fitted:
    """What the shipped trials of another table say of some strategies."""
    (other,) = (own for own in load(PACKAGED).situations if own.task == "newsgroup_vectors")
    few = [own for own in other.settings if own.strategy in ("full", "feature_extraction", "partial_unfreeze")]
    return Fitted(len(few), "", [replace(other, settings=few)])


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asking:
    """Run `advisor` in this process, and return exit code, stdout and stderr."""

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["advisor", *args])
        with pytest.raises(SystemExit) as ended:
            run_command(cli, "advisor")
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.out, said.err

    return call


def rows(columns: dict[str, Any] | None = None) -> OwnRows:
    return read("it.csv", None, columns or {})


def known(own: OwnRows, **more: Any) -> Situation:
    return Situation(modality=own.modality, model_params=own.model_params, n_train=own.n_train, **more)


class Steady:
    """A clock that moves by itself: each look at it takes so many seconds, whatever the machine is at."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def probed(budget: float, store: str = "results", fitted: Fitted = NOTHING, tick: float = 0.01, **more: Any) -> Probed:
    own = rows()
    return probe(own, known(own, **more), fitted, ResultsStore(store, create=True), budget, clock=Steady(tick))


def test_rows_answer_what_they_can(ask: Asking) -> None:
    code, out, err = ask("recommend", "--data", "it.csv", "--format", "json")
    assert code == 0
    situation = json.loads(out)["situation"]
    assert (situation["n_train"], situation["modality"], situation["large"]) == (N_TRAIN, "tabular", False)
    assert situation["model_params"] == 6 * 64 + 64 + 64 * 64 + 64 + 64 * 32 + 32 + 32 * 2 + 2
    assert situation["similar"] is None, "rows alone do not say what the model was pretrained on"
    assert err.startswith("it.csv: 91 training rows, tabular; mlp has 6,754 parameters. Another: --model, --n-train.\n")
    code, out, _ = ask("recommend", "--data", "it.csv", "--n-train", "40", "--task-different", "--format", "json")
    assert code == 0
    assert json.loads(out)["situation"]["n_train"] == 40, "what is said outright comes first"


def test_memory_is_that_of_texts_as_trials_cut_them_or_as_was_said(ask: Asking, place: Path) -> None:
    rows = {"text": [f"a film of {n} hours" for n in range(60)], "label": ["long", "short"] * 30}
    pd.DataFrame(rows).to_csv("texts.csv", index=False)
    for more, tokens in (((), MAX_TOKENS), (("--seq-len", "100"), 100)):
        code, out, err = ask("recommend", "--data", "texts.csv", *more)
        assert code == 0, err
        assert {int(n) for n in re.findall(r"(\d+)\s+tokens\s+at\s+once", out)} == {tokens}
    code, out, err = ask("recommend", "--data", "texts.csv", "--emit", "script")
    assert code == 0, err
    assert "max_length=512" in out, "another tool does not cut where ours does"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--data it.csv --seq-len 100", "100 tokens are of texts, and the rows are tabular: leave one out"),
        ("--data it.csv --modality text", "--modality text contradicts it.csv, whose rows are tabular"),
        ("--data it.csv --large-model", "a large model contradicts 6,754 parameters"),
        ("--data it.csv --data-size large", "large data contradicts 91 rows"),
        ("--data it.csv --label-column lable", "no column named 'lable'"),
        ("--data it.csv --model mpl", "no model named 'mpl'"),
        ("--data nowhere.csv", "nowhere.csv"),
        ("--model mlp", "--model is for --data DATA, your own rows"),
        ("--label-column label", "--label-column is for --data DATA"),
        ("--probe 60s", "--probe trains on your own rows: add --data DATA"),
        ("--data it.csv --probe 60", "'60' is no time: a number and a unit, such as 90s, 10m or 2h"),
        ("--data it.csv --results results", "--results is for --probe TIME"),
        ("--data it.csv --probe 60s --results kept", "'kept' is not a results store"),
        ("--data it.csv --probe 60s --n-train 5000", "--n-train 5,000 is more than the 91 training rows of it.csv"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_store(ask: Asking, place: Path, line: str, says: str) -> None:
    (place / "kept").mkdir()
    (place / "kept" / "thesis.tex").write_text("mine")
    code, out, err = ask("recommend", *line.split())
    last = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert last.startswith("Error: ")
    assert says in last
    assert not (place / "results").exists()


def test_a_probe_answers_from_trials_on_the_rows_themselves(ask: Asking, called: Called) -> None:
    write(NOTHING, Path("nothing.json"))
    asked = ("recommend", "--data", "it.csv", "--probe", "10m", "--fitted", "nothing.json", "--format", "json")
    code, out, err = ask(*asked)
    assert code == 0, err
    found = json.loads(out)
    measured, nearest = found["probe"], found["evidence"]["comparable"][0]
    assert found["spoke"] == "evidence"
    assert nearest["near"]
    assert nearest["task"] == measured["task"]
    assert nearest["n_train"] == N_TRAIN
    assert found["situation"]["similar"] is measured["similar"] is False
    assert 0 < measured["transfer"] < 0.9
    assert measured["facts"].keys() == {"knn_score", "probe_score", "chance_score", "logme"}
    steps = [own["steps"] for own in measured["rounds"]]
    assert steps == sorted(steps)
    assert steps[-1] == nearest["steps"] == STEPS, "with time enough the last round has all steps"
    assert [score["seeds"] for score in measured["rounds"][-1]["scores"]] == [5, 5, 5, 5]
    assert "Probe: " in err
    # As a file for another tool; the trials are there already.
    code, _, err = ask(*asked[:-2], "--emit", "sweeper", "--output", "grid.toml")
    assert code == 0, err
    best = found["candidates"][0]
    written = [trial for trial in load_grid("grid.toml").trials if trial.strategy == best["strategy"]]
    assert best["settings"]["lr"] in {trial.train.lr for trial in written}
    # The rows are rows like any others.
    first = found["candidates"][0]["estimate"]
    assert first["n_trials"] == 5
    for trial in first["trial_ids"]:
        code, out, _ = called("show", trial)
        assert code == 0
        assert json.loads(out)["status"] == "complete"
    # What the probe ran is not run again, and the answer is the same.
    code, out, _ = ask(*asked)
    again = json.loads(out)
    assert again["probe"]["trials_run"] == 0
    assert again["candidates"] == found["candidates"]
    # What `advisor fit` learns from them is the same too: the longest budget with enough seeds, not the first round.
    assert ask("fit")[0] == 0
    code, out, _ = ask("recommend", "--data", "it.csv", "--task-different", "--format", "json")

    def alone(answer: dict[str, Any]) -> list[dict[str, Any]]:
        """The candidates without how they do in other situations: what is shipped is not in the user's store."""
        return [{**own, "behind": None} for own in answer["candidates"]]

    assert alone(json.loads(out)) == alone(found)
    # So does `advisor next`, which finds something to settle only where a lead is open.
    code, out, _ = ask("next", "--data", "it.csv")
    assert code == 0
    leads = found["evidence"]["leads"]
    assert leads
    begin = "Near trials" if any("not settled" in lead for lead in leads) else "Settled in the nearest situation"
    assert out.startswith(f"{begin} (mlp on {measured['task']}, {N_TRAIN} rows, {STEPS} steps)")


def test_the_second_answer_is_nearer_and_says_what_was_settled(without_haste: Probed) -> None:
    found = without_haste
    assert found.before.spoke == "depends"
    assert not found.before.comparable[0].is_near(found.before.situation)
    assert found.after.spoke == "evidence"
    nearest = found.after.comparable[0]
    assert nearest.distance(found.after.situation) == 0
    text = " ".join(as_text(found).split())
    lines = settled(found)
    assert lines[0] == "a task different from pretraining: that was open"
    assert "the answer rested on rules that lacked an answer, now on trials of mlp on own:it-" in text
    first, second = nearest.ranked()[:2]
    gap = first.ahead_of(second)
    assert gap is not None
    now = f"{100 * gap[0]:+.1f} points ({100 * gap[1]:+.1f} to {100 * gap[2]:+.1f}) now"
    assert any(line.startswith(f"{first.strategy} - {second.strategy}: ") and line.endswith(now) for line in lines)
    # A path is not broken, however long it is.
    assert max(len(line) for line in as_text(found).splitlines() if found.results not in line) <= 100


def test_rounds_end_with_enough_seeds_and_more_seeds_make_the_interval_narrower(without_haste: Probed) -> None:
    found = without_haste
    assert found.deciding is found.rounds[-1]
    first, *middle, last = (len(own.scores) for own in found.rounds)
    assert all(number < first for number in middle)
    assert last == first, "with all the time they want, those that fell behind get all steps too"
    assert all(score.seeds >= LEAST_SEEDS for score in found.rounds[-1].scores)
    best, second = found.after.comparable[0].ranked()[:2]
    all_seeds = best.ahead_of(second)
    keep = {i for s in (best, second) for i, seed in zip(s.trial_ids, s.seeds, strict=True) if seed < FEWEST_SEEDS}
    few = [row for row in ResultsStore(found.results).read().results if row.trial_id in keep]
    (situation,) = fit(Contents(few, [], dict.fromkeys(keep, "results"))).situations
    two_seeds = situation.best(best.strategy).ahead_of(situation.best(second.strategy))
    assert all_seeds is not None
    assert two_seeds is not None
    assert all_seeds[2] - all_seeds[1] < two_seeds[2] - two_seeds[1]


def test_probing_twice_from_nothing_gives_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock of its own, for training too: what is tried depends on the time, what comes of it does not.
    learn = Pace.learn
    monkeypatch.setattr(Pace, "learn", lambda pace, pack, seconds, training: learn(pace, pack, seconds, seconds / 2))
    one, other = (as_json(probed(36.0, store, tick=0.1)) for store in ("one", "other"))
    for found in (one, other):
        for candidate in found["candidates"]:
            if candidate["estimate"] is not None:
                del candidate["estimate"]["stores"], candidate["estimate"]["train_seconds"]
            del candidate["not_beaten"]  # seconds of training are one of its objectives, and they are measured
    assert one["candidates"] == other["candidates"]
    assert [own["scores"] for own in one["probe"]["rounds"]] == [own["scores"] for own in other["probe"]["rounds"]]


@pytest.mark.parametrize("budget", [30.0])
def test_no_trial_starts_that_is_not_expected_to_end_in_time(budget: float, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[float, float]] = []
    run = Runner.run

    def watched(self: Runner, specs: Any) -> bool:
        todo = [spec for spec in specs if spec.trial_id not in self.rows]
        expected, left = self.pace.expect(todo), self.deadline - self.clock.now  # type: ignore[attr-defined]
        before = len(self.rows)
        ran = run(self, specs)
        if len(self.rows) > before:
            started.append((expected, left))
        return ran

    monkeypatch.setattr(Runner, "run", watched)
    found = probed(budget, tick=0.1)
    assert started
    assert all(expected <= left for expected, left in started)
    assert found.seconds <= budget + 1, "looks at the clock cost a tenth of a second each, and nothing else does"
    tried = {row.trial_id for row in ResultsStore("results").read().results}
    assert len(tried) == found.ran


def test_what_is_not_expected_to_end_in_time_does_not_start() -> None:
    own = rows()
    store = ResultsStore("results", create=True)
    trials = [own.place.trial("full", {}, lr, steps=10) for lr in (1e-3, 1e-2)]
    runner = Runner(store, Pace(first_step=1.0, first_rest=1.0, new_seed=0.0), 30.0, Steady(0.0))
    assert runner.expect(trials[:1]) == pytest.approx(DOUBT * (1.5 * 10 + 1))
    assert not runner.run(trials), "all or nothing"
    assert not store.read().results
    assert runner.run(trials[:1])
    assert len(store.read().results) == 1


def test_what_is_training_when_the_time_is_up_is_stopped() -> None:
    own = rows()
    store = ResultsStore("results", create=True)
    trial = own.place.trial("full", {}, 1e-2)
    pace = Pace(0.0, 0.0, 0.0)  # it believes that nothing takes any time
    runner = Runner(store, pace, 0.5, Steady(0.2))
    runner.run([trial])
    (row,) = store.read().results
    assert (row.status, row.error) == (Status.PRUNED, TIME_IS_UP)
    assert not runner.complete([trial])
    assert not runner.run([own.place.trial("full", {}, 3e-3)]), "and nothing else starts"
    again = Runner(store, pace, 1e6, Steady(0.0))
    assert again.run([trial])
    assert again.complete([trial]), "a later probe runs what was stopped to its end"


def test_a_probe_that_is_too_short_says_how_long_it_takes(ask: Asking, place: Path) -> None:
    code, out, err = ask("recommend", "--data", "it.csv", "--probe", "0.01s")
    assert (code, out) == (4, "")
    last = err.splitlines()[-1]
    assert re.fullmatch(
        r"Error: --probe 0.01s is too short: comparing \w+ and \w+ with mlp takes about \d+ s here. --probe \d+s", last
    )
    assert not (place / "results").exists()


def test_where_no_trial_ends_well_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.sweep import failed_row

    monkeypatch.setattr(
        "advisor.pace.run_pack",
        lambda pack, provenance, judge: [failed_row(s, Status.OUT_OF_MEMORY, "no room", provenance) for s in pack],
    )
    with pytest.raises(
        TooShortError, match=r"no trial of mlp on it.csv came to its end .*full: out_of_memory: no room"
    ):
        probed(1e6)
    assert ResultsStore("results").read().results, "what went wrong is kept"


def test_one_seed_decides_nothing_and_what_the_user_says_of_the_task_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Race, "best_on_seeds", lambda self, field, others: None)
    found = probed(1e6, similar=True)
    assert found.deciding is None
    assert found.after.spoke == "rules"
    assert "nothing by trials: no strategy has 2 seeds" in settled(found)[-1]
    assert found.similar is False
    assert found.after.situation.similar is True
    assert "you say a task similar to pretraining, frozen features say the opposite" in settled(found)[0]


def a_round(steps: int, valid: float, seeds: int) -> Round:
    return Round(steps, seeds, [Score("full", {}, 1e-3, valid, seeds), Score("lora", {}, 1e-3, valid - 0.1, seeds)])


@pytest.mark.parametrize(
    ("rounds", "near_before", "frozen", "decides", "why"),
    [
        ([a_round(13, 0.7, 1), a_round(40, 0.8, 3)], True, 0.6, 1, ""),
        ([a_round(13, 0.7, 5), a_round(40, 0.8, 3)], True, 0.6, 1, ""),
        ([a_round(13, 0.7, 5), a_round(40, 0.8, 2)], False, 0.6, 0, ""),
        ([a_round(13, 0.7, 2)], False, 0.6, 0, ""),
        ([a_round(13, 0.7, 2)], True, 0.6, None, "no strategy has 3 seeds"),
        ([a_round(13, 0.7, 5)], False, 0.8, None, "70.0 on validation, is below what frozen features score, 80.0"),
        ([a_round(120, 0.7, 5)], False, 0.8, 0, ""),
        ([a_round(13, 0.7, 5)], False, None, 0, ""),
        ([Round(13, 4, [])], False, 0.6, None, "no strategy has 2 seeds"),
    ],
)
def test_what_an_answer_may_rest_on(
    rounds: list[Round], near_before: bool, frozen: float | None, decides: int | None, why: str
) -> None:
    race = Race(Place("mlp", "digits_shifted", 40, 16, 120), None, print, {}, rounds)  # type: ignore[arg-type]
    deciding, undecided = race.deciding(near_before, frozen)
    assert deciding is (None if decides is None else rounds[decides])
    assert why in undecided
    assert bool(undecided) is (deciding is None)


def test_times_are_expected_from_what_was_measured() -> None:
    place = Place("mlp", "digits_shifted", 40, 16, 120)
    pace = Pace(first_step=0.1, first_rest=1.0, new_seed=2.0)
    full = [place.trial("full", {}, lr, steps=10) for lr in (1e-3, 1e-2)]
    assert pace.expect([]) == 0
    assert pace.expect(full[:1]) == pytest.approx(DOUBT * (1.0 + 1.5 * 0.1 * 10))
    pace.learn(full, seconds=5.0, training=4.0)  # a pack of two: 0.2 s for a step of one
    assert pace.expect(full[:1]) == pytest.approx(DOUBT * (1.0 + 0.2 * 10))
    assert pace.expect([place.trial("full", {}, 1e-3, steps=20)]) == pytest.approx(DOUBT * (1.0 + 0.2 * 20))
    assert pace.expect([place.trial("lora", {}, 1e-3, steps=10)]) == pytest.approx(DOUBT * (1.0 + 1.5 * 0.2 * 10))
    other_seed = [place.trial("full", {}, 1e-3, steps=10, seed=1)]
    assert pace.expect(other_seed) == pytest.approx(DOUBT * (1.0 + 0.2 * 10 + 2.0))
    pace.learn(other_seed, seconds=3.5, training=2.0)  # half a second more than the other
    assert pace.expect([place.trial("full", {}, 1e-3, steps=10, seed=2)]) == pytest.approx(DOUBT * (1 + 2 + 0.5))


def candidate(lr: float, measured: bool) -> Candidate:
    estimate = Estimate(0.5, 0.1, 3, ["a"], {"results": 3}, 1, 1, 1) if measured else None
    return Candidate("lora", {"lr": lr}, "", False, estimate)


@pytest.mark.parametrize(
    ("given", "rates"),
    [
        (None, (3e-3, 1e-3, 1e-2)),
        (candidate(2e-4, measured=False), (3e-3, 1e-3, 1e-2)),
        (candidate(1e-2, measured=False), (1e-2, 3e-3, 1e-3)),
        (candidate(1e-2, measured=True), (1e-2, 3e-3, 1e-3)),
        (candidate(3e-4, measured=True), (1e-3, 3e-4, 3e-3)),
        (candidate(1e-1, measured=True), (1e-2, 1e-1, 3e-3)),
    ],
)
def test_rates_are_around_the_advised_one(given: Candidate | None, rates: tuple[float, ...]) -> None:
    assert rates_around(given, (1e-3, 3e-3, 1e-2)) == rates


def test_contenders_fit_the_model_and_others_are_left_out_with_the_reason() -> None:
    own = rows()
    field, left_out = contenders(recommend(known(own, similar=False), NOTHING), own.place)
    by_name = {contender.strategy: contender for contender in field}
    assert [*by_name] == ["partial_unfreeze", "full", "feature_extraction", "lora"]
    assert "rank" not in by_name["lora"].hparams, "eight, its default, is more than six features, and no more than 64"
    large = replace(recommend(known(own), NOTHING).candidates[0], strategy="lora", settings={"rank": 128})
    assert contender("lora", large, own.place).hparams == {"rank": 32}, "the layers are up to 64 wide"
    assert not left_out
    asked = Situation(large=True, compute="low")
    field, left_out = contenders(recommend(asked, NOTHING), own.place)
    assert "prompt_tuning does not apply" in left_out["prompt_tuning"]
    assert {contender.strategy for contender in field} >= {"lora", "full"}
