"""The advisor from Python: `advisor.recommend`, and an estimator in scikit-learn's manners."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import advisor
import sweeper
from advisor.evidence import Measured, load
from sweeper.results import from_frame, read_store, to_frame
from tests import small
from tests.conftest import Command

ROOT = Path(__file__).parent.parent.parent
NEAR = advisor.Situation(model_params=1000, n_train=40, modality="image", similar=False)


def frame() -> pd.DataFrame:
    """Return trials in which full is ahead of LoRA by ten points, with seeds enough to say so."""
    tests = {"full": (0.80, 0.81, 0.82), "lora": (0.70, 0.712, 0.72)}
    return to_frame(
        [small.row(strategy=name, seed=s, valid=t, test=t) for name, of in tests.items() for s, t in enumerate(of)]
    )


def test_the_answer_is_that_of_the_command_line(command: Command) -> None:
    answer = advisor.recommend(advisor.Situation(large=True, compute="low"))
    assert str(answer) == command("advisor", "recommend", "--large-model", "--compute", "low").stdout
    shown = answer._repr_html_()
    assert "<table" in shown
    assert all(own.strategy in shown for own in answer.candidates)


def test_the_name_is_the_function_and_the_module_stays() -> None:
    from advisor.recommend import recommend

    assert advisor.recommend is recommend
    with pytest.raises(AttributeError, match="no attribute 'Advisr'"):
        advisor.Advisr  # noqa: B018


def test_import_is_light() -> None:
    program = "import advisor, sys; advisor.recommend(advisor.Situation(large=True)); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"numpy", "pandas", "torch", "sklearn", "ray"} & set(done.stdout.split())


def test_it_learns_and_predicts() -> None:
    model = advisor.Advisor()
    assert model.fit(frame()) is model
    assert model.predict([NEAR]).tolist() == ["full"]
    assert model.n_trials_ == 6
    assert model.classes_.tolist() == ["full", "lora"]
    (answer,) = model.recommend([NEAR])
    assert answer.spoke == "evidence"
    worse = frame()
    worse.loc[worse["strategy"] == "full", ["valid_score", "test_score"]] -= 0.4
    assert advisor.Advisor().fit(worse).predict([NEAR]).tolist() == ["lora"]


def test_situations_come_as_such_as_mappings_and_as_a_frame() -> None:
    model = advisor.Advisor().fit(frame())
    rows = pd.DataFrame(
        {
            "model_params": [1000, None],
            "n_train": [40, None],
            "modality": ["image", None],
            "similar": [False, None],
            "large": [None, True],
            "compute": [None, "low"],
        }
    )
    wanted = [NEAR, advisor.Situation(large=True, compute="low")]
    assert [own.situation for own in model.recommend(rows)] == wanted
    assert model.predict(rows).tolist() == model.predict(wanted).tolist() == ["full", "lora"]
    assert model.predict([{"large": True, "compute": "low"}]).tolist() == ["lora"]
    with pytest.raises(ValueError, match="Did you mean 'n_train'"):
        model.predict([{"ntrain": 40}])
    with pytest.raises(ValueError, match="a list of one"):
        model.predict(NEAR)  # type: ignore[arg-type]


def test_the_manners_of_an_estimator() -> None:
    model = advisor.Advisor(figures=False)
    assert model.get_params() == {"figures": False}
    with pytest.raises(NotFittedError):
        model.predict([NEAR])
    fitted = model.fit(frame())
    assert not fitted.fitted_.published
    copied = clone(fitted)
    assert copied.get_params() == {"figures": False}
    with pytest.raises(NotFittedError):
        copied.predict([NEAR])
    assert copied.set_params(figures=True).fit(frame()).fitted_.published
    assert repr(model) == "Advisor(figures=False)"
    assert fitted.fit(frame().iloc[:3]).classes_.tolist() == ["full"], "a second fit forgets the first"


def test_a_frame_that_is_none_of_trials_is_refused_in_a_line() -> None:
    with pytest.raises(ValueError, match="lacks the column trial_id, status, hparams"):
        advisor.Advisor().fit(pd.DataFrame({"model": [1]}))
    with pytest.raises(ValueError, match=r"takes the frame of sweeper\.load_results"):
        advisor.Advisor().fit([[1, 2]])  # type: ignore[arg-type]
    edited = frame().assign(seed=7)
    with pytest.raises(ValueError, match=r"row '\w{16}' of the frame is no trial"):
        advisor.Advisor().fit(edited)


def test_a_frame_and_back_are_the_same_rows() -> None:
    rows = read_store(ROOT / "results" / "shipped").results
    back = from_frame(to_frame(rows))
    assert [row.spec for row in back] == [row.spec for row in rows]
    assert [dict(row.metrics) for row in back] == [dict(row.metrics) for row in rows]
    assert all({**row.context}.items() <= {**other.context}.items() for row, other in zip(rows, back, strict=True))


@pytest.mark.slow
def test_the_shipped_file_is_learned_from_the_frame_of_the_shipped_rows() -> None:
    found = advisor.Advisor().fit(sweeper.load_results(ROOT / "results" / "shipped")).fitted_
    shipped = load(Path(advisor.__file__).with_name("fitted.json"))
    assert in_order(found.situations) == in_order(shipped.situations)
    assert (found.doubted, found.carries, found.newest) == (shipped.doubted, shipped.carries, shipped.newest)


def in_order(situations: Sequence[Measured]) -> list[Measured]:
    """Return situations with settings in the order of their first trial, and without the names of stores."""
    return [
        replace(own, settings=sorted((replace(s, stores={}) for s in own.settings), key=lambda s: s.trial_ids[0]))
        for own in situations
    ]


@pytest.mark.parametrize("package", ["sweeper", "advisor"])
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
