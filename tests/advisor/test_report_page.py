"""`advisor report`: one HTML file that answers which, by how much, how sure and at what cost, in a real browser."""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scipy import stats

from advisor.chart import ticks
from advisor.evaluate import evaluate
from advisor.evidence import PACKAGED, load
from advisor.page import advice, interval
from advisor.recommend import Recommendation, recommend
from advisor.regret import PACKAGED as REGRET
from advisor.situation import Situation
from advisor.table import read
from tests.browser import assert_accessible, opened, overflow
from tests.conftest import Command

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent.parent
FITTED = load(PACKAGED)
ANSWERS = {
    "near": Situation(model_params=40e3, n_train=100, modality="image", similar=False),
    "rules": Situation(large=True, compute="low"),
    "depends": Situation(large=True),
    "nothing_fits": Situation(model_params=7e10, gpu_memory=8e9, modality="text"),
    "beside_trials": Situation(large=False, similar=True, data="small"),
}


def answer(name: str) -> Recommendation:
    return recommend(ANSWERS[name], FITTED)


@pytest.mark.parametrize("name", ANSWERS)
def test_the_page_in_a_browser(browser: Browser, tmp_path: Path, name: str) -> None:
    file = tmp_path / "advice.html"
    file.write_text(advice(answer(name), FITTED), encoding="utf-8")
    for width in (1400, 400):
        with opened(browser, file.as_uri(), width=width) as page:
            assert overflow(page) == 0
            tiles = page.locator(".verdict > div")
            asked = ("Which", "By how much", "How sure", "At what cost")
            for place, question in enumerate(asked):
                assert tiles.nth(place).inner_text().startswith(question)
                box = tiles.nth(place).bounding_box()
                assert box is not None
                assert box["y"] + box["height"] <= 900, "below the fold"
            if width == 400:
                assert_accessible(page)


def test_the_verdict_is_what_the_trials_say(browser: Browser, tmp_path: Path) -> None:
    own = answer("near")
    file = tmp_path / "advice.html"
    file.write_text(advice(own, FITTED), encoding="utf-8")
    first, second = own.comparable[0].ranked()[:2]
    theirs = dict(zip(second.seeds, second.test, strict=True))
    gaps = [100 * (mine - theirs[seed]) for seed, mine in zip(first.seeds, first.test, strict=True) if seed in theirs]
    with opened(browser, file.as_uri()) as page:
        assert page.inner_text("h1") == f"Advice: {first.strategy}"
        lead = page.locator(".verdict > div").nth(1).inner_text()
        assert f"{statistics.fmean(gaps):+.1f}" in lead
        assert f"over {second.strategy}" in lead
        # The dot of the first row stands where its mean belongs between two ticks.
        at = dict(page.evaluate(TICKS))
        names = sorted(at, key=float)
        low, high = names[0], names[-1]
        share = (100 * statistics.fmean(first.test) - float(low)) / (float(high) - float(low))
        dot = page.evaluate("(c => c.x + c.width / 2)(document.querySelector('.chart circle').getBoundingClientRect())")
        assert dot == pytest.approx(at[low] + share * (at[high] - at[low]), abs=1.5)


TICKS = """[...document.querySelectorAll('.chart text')].map(t => {
  const box = t.getBoundingClientRect(); return [t.textContent, box.x + box.width / 2]; })"""


def test_an_interval_is_students() -> None:
    estimate = answer("near").candidates[0].estimate
    assert estimate is not None
    assert estimate.std is not None
    half = stats.t.ppf(0.975, estimate.n_trials - 1) * estimate.std / math.sqrt(estimate.n_trials)
    assert interval(estimate) == pytest.approx(half, rel=1e-3)
    assert interval(replace(estimate, std=None, n_trials=1)) is None


@pytest.mark.parametrize(("least", "most"), [(50.0, 95.0), (-0.1, 0.3), (0.0, 1000.0), (86.2, 86.9)])
def test_ticks_are_few_round_and_inside(least: float, most: float) -> None:
    found = ticks(least, most)
    assert 3 <= len(found) <= 9
    assert all(least <= tick <= most for tick in found)
    assert all(len(f"{tick:g}") <= 5 for tick in found)


def test_what_a_fitted_file_says_is_text(browser: Browser, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=\"document.title='owned'\">"
    own = answer("near")
    first = replace(own.candidates[0], settings_from=hostile, settings={hostile: hostile})
    near = replace(own.comparable[0], task=hostile, model=hostile)
    file = tmp_path / "advice.html"
    told = replace(own, candidates=[first], comparable=[near], leads=[hostile], flips=[hostile])
    file.write_text(advice(told, FITTED), encoding="utf-8")
    with opened(browser, file.as_uri()) as page:
        assert page.title() == "Advice: full"
        assert page.locator("main img").count() == 0
    assert "<img" not in told._repr_html_()


def test_the_command_writes_the_file_and_the_page_says_how_to_ask_again(command: Command, tmp_path: Path) -> None:
    done = command("advisor", "report", "--model-params", "40k", "--n-train", "100", "--modality", "image")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "advice.html").read_text()
    again = re.search(r"The same in a terminal: advisor (recommend [^<]*)</footer>", text)
    assert again
    asked = command("advisor", *again[1].split(), "--format", "json")
    assert json.loads(asked.stdout)["situation"]["model_params"] == 40e3
    assert json.loads(asked.stdout)["situation"]["n_train"] == 100
    assert command("advisor", "report", "--output", "advice.pdf").returncode == 2


@pytest.mark.slow
def test_the_regret_that_ships_is_that_of_the_shipped_trials() -> None:
    found, kept = (flat(own) for own in (evaluate(read(ROOT / "results" / "shipped")), json.loads(REGRET.read_text())))
    assert found.keys() == kept.keys()
    assert found == pytest.approx(kept, abs=0.01)


def flat(content: Any, name: str = "") -> dict[str, Any]:
    """Return each number of nested JSON by its path."""
    if isinstance(content, dict):
        return {path: value for key, own in content.items() for path, value in flat(own, f"{name}/{key}").items()}
    if isinstance(content, list):
        return flat(dict(enumerate(content)), name)
    return {name: content}
