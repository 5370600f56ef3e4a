"""The report of a sweep: its numbers against pandas and scipy, its looks in a real browser."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from sweeper.chart import Axis, Chart, Mark, Series, ticks
from sweeper.contest import Lead, contests, standings
from sweeper.figures import front
from sweeper.report import charts_of, report_html
from sweeper.results import ResultsStore, read_store, to_frame
from sweeper.sensitivity import profiles
from sweeper.spec import Status, TrialResult
from sweeper.summary import summarise
from sweeper.svg import HEIGHT, LEFT, RIGHT, WIDTH, draw
from tests import small
from tests.browser import assert_accessible, opened, overflow
from tests.conftest import Called
from tests.sweeper.test_page import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHIPPED = Path(__file__).parents[2] / "results" / "shipped"
MOST_BYTES = 6_000_000
SITUATION = ["model", "task", "n_train", "steps"]
LINE = [*SITUATION, "strategy", "hparams"]
SETTING = ["lr", "batch_size", "weight_decay", "warmup"]
WINDOWS = [(1400, 900, "light"), (1400, 900, "dark"), (400, 800, "light"), (400, 800, "dark")]


@pytest.fixture(scope="module")
def shipped() -> list[TrialResult]:
    return read_store(SHIPPED).results


@pytest.fixture(scope="module")
def ranks(shipped: list[TrialResult]) -> list[TrialResult]:
    """The rows of one grid in one situation."""
    return [row for row in shipped if row.provenance.get("grid") == "lora_ranks"]


@pytest.fixture(scope="module")
def whole(shipped: list[TrialResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of everything that ships."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_html(shipped, results="results/shipped"))
    return file


def chosen(rows: list[TrialResult]) -> pd.DataFrame:
    """The trials of each line's best training arguments, by pandas; ``valid`` is over the seeds that all lines share.

    Of equal means the first counts, in the store's order; `fmean`, since pandas' mean makes others of them.
    """
    frame = to_frame(rows)
    frame = frame[frame.status == "complete"]
    means = frame.groupby([*LINE, *SETTING], sort=False).agg(n=("seed", "size"), valid=("valid_score", fmean))
    means = means.reset_index().sort_values(["n", "valid"], ascending=False, kind="stable")
    trials = frame.merge(means.groupby(LINE).head(1)[[*LINE, *SETTING, "n"]], on=[*LINE, *SETTING])
    trials["enough"] = trials.n >= trials.groupby(SITUATION).n.transform("max").clip(upper=3)
    have = trials[trials.enough].groupby([*SITUATION, "seed"]).size().rename("have").reset_index()
    wanted = trials[trials.enough].groupby(LINE).size().groupby(SITUATION).size().rename("wanted").reset_index()
    shared = have.merge(wanted, on=SITUATION).query("have == wanted")[[*SITUATION, "seed"]]
    valid = trials.merge(shared, on=[*SITUATION, "seed"]).groupby(LINE).valid_score.agg(fmean).rename("valid")
    return trials.merge(valid.reset_index(), on=LINE)


@pytest.mark.parametrize(("width", "height", "scheme"), WINDOWS)
def test_the_answer_is_above_the_fold(
    browser: Browser, whole: Path, tmp_path: Path, width: int, height: int, scheme: Literal["light", "dark"]
) -> None:
    assert whole.stat().st_size <= MOST_BYTES
    with opened(browser, whole.as_uri(), width=width, height=height, scheme=scheme) as page:
        box = page.locator(".answer").first.bounding_box()
        assert box
        assert box["y"] + box["height"] <= height
        asked = page.locator(".answer").first.locator("dt").all_inner_texts()
        assert asked == ["Which?", "By how much?", "How sure?", "At what cost?"]
        assert overflow(page) == 0
        picture = Image.open(io.BytesIO(page.screenshot(path=tmp_path / "page.png"))).convert("L")
        ground = picture.getpixel((2, 2))
        assert isinstance(ground, int)
        assert ground > 200 if scheme == "light" else ground < 60
        assert len(set(picture.resize((80, 60)).get_flattened_data())) > 20, "something is on it"


def test_a_report_of_some_situations_is_accessible_and_prints(
    browser: Browser, shipped: list[TrialResult], tmp_path: Path
) -> None:
    rows = [row for row in shipped if row.provenance["grid"] == "generation" or row.spec.task == "cifar10_animals"]
    rows.append(replace(rows[0], status=Status.OUT_OF_MEMORY, error="CUDA out of memory", metrics={}, curve=()))
    file = tmp_path / "report.html"
    file.write_text(report_html(rows))
    with opened(browser, file.as_uri(), width=400, height=800) as page:
        page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true })")
        assert overflow(page) == 0
        assert_accessible(page)
        page.click("nav a:has-text('Situations')")
        page.locator("#situations ~ .scroll a").last.click()
        target = page.locator(f"[id='{page.url.partition('#')[2]}']")
        assert 0 <= target.evaluate("it => it.getBoundingClientRect().top") < 400
        assert page.locator(".matrix").count() == 1, "of the situation with classes"
        assert page.locator("svg[role=img]").count() == page.locator("svg[aria-label]").count() > 10
        assert len(page.pdf()) > 10_000


@pytest.mark.slow  # axe takes half a minute for 600 figures
def test_the_whole_report_is_accessible(browser: Browser, whole: Path) -> None:
    with opened(browser, whole.as_uri()) as page:
        assert_accessible(page)


def test_the_answer_is_what_pandas_and_scipy_find(ranks: list[TrialResult], browser: Browser, tmp_path: Path) -> None:
    trials = chosen(ranks)
    order = trials.groupby(["strategy", "hparams"]).valid.first().sort_values(ascending=False)
    winner, rival = order.index[0], next(key for key in order.index if key[0] != order.index[0][0])
    by_line = trials.set_index(["strategy", "hparams", "seed"]).test_score.sort_index()
    test, gaps = by_line.loc[winner], (by_line.loc[winner] - by_line.loc[rival]).dropna()
    interval = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)

    file = tmp_path / "report.html"
    file.write_text(report_html(ranks))
    with opened(browser, file.as_uri(), width=400, height=800) as page:
        said = page.locator(".answer").inner_text()
        box = page.locator(".facts").bounding_box()
        assert box
        assert box["y"] + box["height"] <= 800
        assert page.inner_text("h1").startswith("How does LoRA's accuracy change with its rank")
    assert winner[0] in said
    assert f"Test accuracy {100 * test.mean():.1f} ± {100 * test.std():.1f}" in said
    assert f"{100 * gaps.mean():+.1f} points" in said
    assert f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f} points, paired over {len(gaps)} seeds" in said
    assert ("not settled" in said) == (interval.low <= 0 <= interval.high)


def test_figures_show_the_means_that_pandas_finds(ranks: list[TrialResult]) -> None:
    trials = chosen(ranks)
    means = trials.groupby(["strategy", "hparams"])[["trainable_params", "test_score"]].mean()
    spread = trials.groupby(["strategy", "hparams"]).test_score.std()
    ((_, charts),) = charts_of(ranks).items()
    kinds = {chart.kind: chart for chart in charts}
    assert list(kinds) == [
        *("trainable_params", "train_seconds", "peak_memory_bytes", "forgetting"),
        *("rank", "learning_rate", "learning_curves", "learning_seconds"),
    ]
    shown = {
        (mark.x, round(mark.y, 6), round(mark.spread, 6)) for s in kinds["trainable_params"].series for mark in s.marks
    }
    table = means.join(spread.rename("std"))
    assert shown == {(p, round(100 * t, 6), round(100 * s, 6)) for p, t, s in table.itertuples(index=False)}

    frame = to_frame(ranks)
    full = frame[(frame.strategy == "full") & (frame.status == "complete")].groupby("lr").valid_score.mean()
    (mine,) = [own for own in kinds["learning_rate"].series if own.name == "full"]
    assert {mark.x: pytest.approx(mark.y) for mark in mine.marks} == {lr: 100 * valid for lr, valid in full.items()}
    (curve,) = [own for own in kinds["learning_curves"].series if own.name == "full"]
    assert curve.marks[-1].y == pytest.approx(100 * trials[trials.strategy == "full"].valid_score.mean())
    (in_time,) = [own for own in kinds["learning_seconds"].series if own.name == "full"]
    ends = trials[trials.strategy == "full"].curve.map(lambda points: points[-1]["seconds"])
    assert in_time.marks[-1].x == pytest.approx(ends.mean())
    assert [mark.y for mark in in_time.marks] == [mark.y for mark in curve.marks]


def test_what_strategies_lose_over_all_situations_is_what_pandas_finds(shipped: list[TrialResult]) -> None:
    trials = chosen(shipped)
    lines = trials.groupby(LINE, sort=False).agg(
        valid=("valid", "first"), test=("test_score", "mean"), enough=("enough", "first")
    )
    lines = lines.reset_index().sort_values(["enough", "valid"], ascending=False, kind="stable")
    best = lines.groupby([*SITUATION, "strategy"]).head(1)
    lost = best.groupby(SITUATION).test.transform("max") - best.test
    best = best.assign(lost=lost)
    tasks = best.groupby(["strategy", "task"]).lost.mean().groupby("strategy").mean()
    found = {own.strategy: own for own in standings(contests(summarise(shipped)))}
    assert {name: own.mean_lost for name, own in found.items()} == pytest.approx(tasks.to_dict())
    assert {name: own.best_in for name, own in found.items()} == (best.lost == 0).groupby(best.strategy).sum().to_dict()


@pytest.mark.parametrize("gaps", [[0.1, 0.2, 0.15], [-0.1, 0.3], [0.02] * 4 + [0.03]])
def test_a_lead_is_students_interval(gaps: list[float]) -> None:
    lead = Lead.of(gaps)
    expected = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert lead
    assert (lead.low, lead.high) == pytest.approx((expected.low, expected.high))
    assert lead.is_settled == (expected.low > 0)


def test_one_seed_has_no_interval_and_says_so() -> None:
    text = report_html([small.row(rank=1), small.row(strategy="full", valid=0.4, test=0.4)])
    assert "One seed: no interval" in text
    assert "settled</span>" not in text
    assert "+10.0 points" in text


def test_fewer_seeds_do_not_win() -> None:
    rows = [small.row(strategy="full", seed=seed, valid=0.6) for seed in range(3)]
    (contest,) = contests(summarise([*rows, small.row(rank=1, seed=0, valid=0.99)]))
    assert contest.winner.strategy == "full"
    assert contest.runner_up
    assert contest.runner_up.strategy == "lora"


def test_the_cheaper_one_among_those_nearly_as_good_is_named() -> None:
    def row(rank: int, valid: float, params: float) -> TrialResult:
        made = small.row(rank=rank, valid=valid)
        return replace(made, metrics={**made.metrics, "trainable_params": params})

    (contest,) = contests(summarise([row(16, 0.8, 160.0), row(8, 0.795, 80.0), row(2, 0.7, 20.0)]))
    assert contest.frugal
    assert contest.frugal.hparams["rank"] == 8


def test_sensitivity_takes_the_best_of_everything_else() -> None:
    rows = [
        *(small.row(rank=1, lr=1e-2, seed=seed, valid=0.5 + 0.1 * seed) for seed in (0, 1)),
        *(small.row(rank=1, lr=1e-3, seed=seed, valid=0.2) for seed in (0, 1)),
        *(small.row(rank=4, lr=1e-3, seed=seed, valid=0.9) for seed in (0, 1)),
        replace(small.row(rank=4, lr=1e-2), status=Status.DIVERGED, metrics={}),
    ]
    found = {own.name: own for own in profiles(rows)}
    assert set(found) == {"lr", "rank"}
    assert [(value, spread.mean) for value, spread in found["lr"].points] == [(1e-3, 0.9), (1e-2, pytest.approx(0.55))]
    assert [(value, spread.mean) for value, spread in found["rank"].points] == [(1, pytest.approx(0.55)), (4, 0.9)]
    assert found["rank"].best == 4
    assert found["rank"].range == pytest.approx(0.35)


def test_the_front_holds_what_nothing_beats() -> None:
    points = [(1.0, 5.0), (2.0, 5.0), (2.0, 7.0), (3.0, 6.0), (3.0, 7.0), (4.0, 9.0), (4.0, 9.0)]

    def beaten(x: float, y: float) -> bool:
        return any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)

    assert front(points) == {point for point in points if not beaten(*point)}
    assert front(points, lower_is_better=False) == {(4.0, 9.0)}


def test_a_chart_puts_marks_where_their_values_are() -> None:
    marks = (Mark(1, 10, "a"), Mark(10, 20, "b"), Mark(100, 30, "<c>", spread=5))
    chart = Chart("k", "T", Axis("x", str, log=True), Axis("y", str), (Series("s", 0, marks),), "says")
    drawn = draw(chart)
    places = [(float(x), float(y)) for x, y in re.findall(r'class="m s" d="M([\d.]+) ([\d.]+)m', drawn)]
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    assert places[1][0] == pytest.approx(middle, abs=0.1), "ten is half way from 1 to 100"
    assert places[0][1] - places[1][1] == pytest.approx(places[1][1] - places[2][1], abs=0.11)
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in places)
    bar = re.search(r'class="b" d="M([\d.]+) ([\d.]+)V([\d.]+)"', drawn)
    assert bar
    assert float(bar[2]) - places[2][1] == pytest.approx((places[1][1] - places[2][1]) / 2, abs=0.11)
    assert "&lt;c&gt;" in drawn


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0.1, 97.3, False, [20, 40, 60, 80]),
        (-0.3, 0.25, False, [-0.2, 0, 0.2]),
        (0.11, 0.25, True, [0.15, 0.2, 0.25]),
        (0.9, 130, True, [1, 10, 100]),
        (3, 4e9, True, [10, 1e3, 1e5, 1e7, 1e9]),
    ],
)
def test_ticks_are_few_and_round(low: float, high: float, log: bool, expected: list[float]) -> None:
    assert ticks(low, high, log) == pytest.approx(expected)


def test_hostile_rows_stay_text(browser: Browser, tmp_path: Path) -> None:
    def row(**changes: Any) -> TrialResult:
        made = small.row(**changes)
        context = {**made.context, "labels": [HOSTILE, "b"], "memory_kind": "device"}
        metrics = {**made.metrics, "confusion": [[3, 1], [0, 4]], "diagnoses": [HOSTILE, "overfitting"]}
        spec = replace(made.spec, task=HOSTILE, model=HOSTILE, hparams={**made.spec.hparams, "targets": HOSTILE})
        facts = {"grid": HOSTILE, "cpu": HOSTILE, "commit": HOSTILE, "versions": {"torch": HOSTILE}}
        return replace(made, spec=spec, context=context, metrics=metrics, provenance={**made.provenance, **facts})

    rows = [row(rank=1), row(rank=2), row(rank=2, seed=1)]
    rows.append(replace(row(seed=3), status=Status.FAILED, error=HOSTILE, metrics={}))
    file = tmp_path / "report.html"
    file.write_text(report_html(rows, HOSTILE, results=HOSTILE, command=HOSTILE, stores={rows[0].trial_id: HOSTILE}))
    with opened(browser, file.as_uri(), width=400) as page:
        assert page.title() == HOSTILE
        page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true })")
        assert page.locator("script, img").count() == 0
        assert page.locator("text=<script>").count() > 5
        assert overflow(page) == 0
        assert_accessible(page)


@pytest.mark.parametrize(
    "rows",
    [
        [replace(small.row(), status=Status.FAILED, metrics={}, curve=(), error="RuntimeError: boom\nand more")],
        [small.row()],
        [replace(small.row(), curve=())],
    ],
    ids=["only failures", "one trial", "no curve"],
)
def test_small_stores_have_reports(rows: list[TrialResult], browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_html(rows))
    with opened(browser, file.as_uri()) as page:
        text = page.inner_text("main")
        assert_accessible(page)
    if rows[0].status is Status.FAILED:
        assert "none of 1 trials has completed" in text
        assert "RuntimeError: boom" in text
        assert "and more" not in text
    else:
        assert "Nothing else has a complete trial" in text
        assert "None: all 1 trials are complete." in text


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    opened_store = ResultsStore(tmp_path / "store", create=True)
    opened_store.append([small.row(rank=rank, seed=seed) for rank in (1, 2) for seed in (0, 1)])
    yield str(tmp_path / "store")
    opened_store.close()


def test_the_command_writes_the_page_and_the_figures(store: str, tmp_path: Path, called: Called) -> None:
    file, folder = tmp_path / "out.html", tmp_path / "figures"
    args = ("--results", store, "--output", str(file), "--figures", str(folder), "--format", "json")
    code, out, err = called("report", *args)
    assert code == 0, err
    figures = len([*folder.iterdir()])
    assert json.loads(out) == {"file": str(file), "bytes": file.stat().st_size, "trials": 4, "figures": figures}
    assert "4 trials in" in err
    assert f"sweeper report --results {store}" in file.read_text()
    names = {path.name for path in folder.iterdir()}
    assert {"mlp-digits_shifted-40-6-rank.svg", "mlp-digits_shifted-40-6-rank.png"} <= names
    for path in folder.iterdir():
        if path.suffix == ".png":
            assert Image.open(path).size[0] > 500
        else:
            assert "<svg" in path.read_text()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model", "mpl"], "no model in this store named 'mpl'.*Did you mean 'mlp'"),
        (["--grid", "lora_ranks"], "no trial in .* is of this choice"),
        (["--output", "nowhere/report.html"], "there is no folder 'nowhere'"),
        (["--output", "rows.csv"], "--output must end in .html, got 'rows.csv'"),
        (["--results", "missing"], "no results store at 'missing'"),
    ],
)
def test_mistakes_are_one_line(store: str, args: list[str], says: str, called: Called) -> None:
    code, out, err = called("report", "--results", store, *args)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(says, err)


def test_an_empty_store_is_a_mistake(tmp_path: Path, called: Called) -> None:
    ResultsStore(tmp_path / "empty", create=True).mark()
    code, _, err = called("report", "--results", str(tmp_path / "empty"))
    assert code == 2
    assert "no trial in" in err
    with pytest.raises(ValueError, match="no trial to report"):
        report_html([])
