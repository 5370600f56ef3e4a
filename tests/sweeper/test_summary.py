"""Choosing on valid, reporting on test, and showing it."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sweeper.picture import draw
from sweeper.progress import Bar, SweepProgress
from sweeper.spec import Status, TrialResult
from sweeper.summary import Spread, summarise
from sweeper.table import OPTIONAL, as_json, print_summary
from tests import small


def test_the_rate_is_chosen_on_valid_and_reported_on_test() -> None:
    rows = [
        *(small.row(seed=seed, lr=1e-3, valid=0.6, test=0.9) for seed in (0, 1)),
        *(small.row(seed=seed, lr=1e-2, valid=0.7, test=0.5 + 0.1 * seed) for seed in (0, 1)),
    ]
    (line,) = summarise(rows)
    assert line.train["lr"] == 1e-2
    assert line.searched == 2
    assert line.spread("test_score") == Spread(pytest.approx(0.55), pytest.approx(0.0707, abs=1e-4), 2)


def test_of_level_rates_the_lower_counts_whatever_the_order_of_rows() -> None:
    rows = [small.row(seed=seed, lr=lr, valid=0.6) for lr in (1e-2, 1e-3) for seed in (0, 1)]
    for own in (rows, rows[::-1]):
        (line,) = summarise(own)
        assert line.train["lr"] == 1e-3


def test_a_rate_that_failed_on_a_seed_does_not_win_on_the_others() -> None:
    rows = [
        *(small.row(seed=seed, lr=1e-3, valid=0.6) for seed in (0, 1)),
        small.row(seed=0, lr=1e-1, valid=0.99),
        replace(small.row(seed=1, lr=1e-1), status=Status.DIVERGED, metrics={}),
    ]
    (line,) = summarise(rows)
    assert line.train["lr"] == 1e-3


def test_a_mean_over_the_seeds_that_were_not_stopped_says_so() -> None:
    rows = [small.row(seed=0, lr=1e-3, valid=0.9), replace(small.row(seed=1, lr=1e-3), status=Status.PRUNED)]
    out = io.StringIO()
    print_summary(summarise(rows), Console(file=out, width=200))
    assert "1 of 2" in out.getvalue()
    assert "flatters" in out.getvalue()
    print_summary(summarise(rows[:1]), Console(file=(other := io.StringIO()), width=200))
    assert "flatters" not in other.getvalue()


def test_hyperparameters_make_lines_of_their_own_and_one_seed_has_no_spread() -> None:
    lines = summarise([small.row(rank=1), small.row(rank=2)])
    assert [line.hparams["rank"] for line in lines] == [1, 2]
    assert lines[0].spread("test_score") == Spread(0.5, None, 1)
    assert lines[0].spread("forgetting") is None


def test_the_table_names_what_differs_and_orders_by_valid() -> None:
    out = io.StringIO()
    rows = [small.row(rank=1, valid=0.1), small.row(rank=2, valid=0.9), small.row(strategy="full", valid=0.5)]
    print_summary(summarise(rows), Console(file=out, width=200))
    text = out.getvalue()
    assert text.index("rank=2") < text.index("full") < text.index("rank=1")
    assert "alpha" not in text
    assert [line["strategy"] for line in as_json(summarise(rows))] == ["lora", "full", "lora"]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_narrow_terminal_loses_whole_columns_and_hears_which(width: int) -> None:
    out = io.StringIO()
    print_summary(summarise([small.row(rank=1), small.row(rank=32)]), Console(file=out, width=width))
    text = " ".join(out.getvalue().split())
    assert "…" not in text
    assert "rank=32" in text
    assert "50.0" in text
    assert ("Left out for want of width: memory" in text) == (width < 100)


def test_a_column_stands_only_where_some_line_has_its_number() -> None:
    def text(*rows: TrialResult, width: int = 250) -> str:
        out = io.StringIO()
        print_summary(summarise(rows), Console(file=out, width=width))
        return " ".join(out.getvalue().split())

    def row(modality: str = "image", metric: str = "accuracy", **metrics: float) -> TrialResult:
        made = small.row(test=0.5)
        context = {**made.context, "modality": modality, "metric": metric}
        return replace(made, metrics={**made.metrics, **metrics}, context=context)

    assert not {*OPTIONAL} & {*text(row(test_macro_f1=0.2)).split()}, "an older row"
    new = {"test_macro_f1": 0.495, "test_calibration_error": 0.031}
    assert "macro-F1" not in text(row(**new))
    assert "macro-F1: mean over classes" in text(row("text", **new))
    assert "49.5 3.1" in text(row("text", **new))
    assert "macro-F1 calibration" in text(row(**{**new, "test_macro_f1": 0.3}))
    assert "50.0 1.23 - 1 0.10" in text(row(test_rmse=1.234)), "in its own unit, before forgets and seeds"
    assert "50.0 40.0 60.0" in text(row(test_precision=0.4, test_recall=0.6))
    assert "50.0 12.3 20.0 3.0" in text(row(test_perplexity=12.34, test_rouge_l=0.2, test_bleu=0.03))
    assert "50.0 45.0" in text(row(shifted_test_score=0.45))
    narrow = text(row("text", **new), width=80)
    assert "macro-F1: mean" not in narrow, "the caption is of what is shown"
    assert narrow.endswith("Left out for want of width: memory, seeds, %, seconds, calibration, macro-F1.")


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    draw(
        summarise([small.row(rank=1), small.row(rank=2), small.row(strategy="full")]),
        "Why $\\foo$ ?",
        tmp_path / "a" / "p.png",
    )
    assert (tmp_path / "a" / "p.png").read_bytes().startswith(b"\x89PNG")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_in_a_pipe_is_a_line_now_and_then() -> None:
    out, clock = io.StringIO(), Clock()
    progress = SweepProgress(4, Console(file=out, force_terminal=False, width=200), clock)
    progress.start(2)
    clock.now = 5
    progress.finish([small.row(seed=0, valid=0.25)])
    assert out.getvalue() == "", "not every row is news"
    clock.now = 11
    progress.finish([replace(small.row(seed=1), status=Status.FAILED, metrics={})])
    assert len(out.getvalue().splitlines()) == 1
    progress.finish([small.row(seed=2)])
    progress.close()
    progress.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 2, "the end is news, once"
    assert lines[0] == "2/4 trials | 0 running | 1 failed | best valid 0.250 (lora, lr 0.01) | 11 s left"
    assert "\x1b" not in out.getvalue()


def test_progress_in_a_terminal_is_a_bar_and_the_best_so_far_and_goes_away() -> None:
    out = io.StringIO()
    progress = SweepProgress(2, Console(file=out, force_terminal=True, width=120), Clock())
    progress.start(2)
    progress.finish([small.row(seed=0, valid=0.25), small.row(seed=1, valid=0.75), small.row(strategy="full")])
    progress.close()
    assert "\x1b" in out.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "Best on valid so far" in plain
    assert re.search(r"lora +0\.01 +50\.0 +50\.0 +2\s", plain), "the mean over its seeds"
    assert re.search(r"full +0\.01 +50\.0 +50\.0 +1\s", plain)


def test_a_longer_piece_of_work_says_how_long_it_will_take() -> None:
    out, clock = io.StringIO(), Clock()
    with Bar("packs", Console(file=out, force_terminal=False, width=200), clock) as bar:
        clock.now = 5  # with the first, what comes only once: imports, rows
        bar.tell(1, 10)
        clock.now = 11
        bar.tell(2, 10)
        bar.tell(3, 10)
    assert out.getvalue() == "2/10 packs | 48 s left\n"
