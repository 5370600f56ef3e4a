"""The part of a report that is about many situations: which strategy loses least, and what wins where."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from sweeper.contest import BASELINE, Contest, Lead, Standing
from sweeper.figures import Styles, overview, setting
from sweeper.page import element, join, table
from sweeper.report_answer import facts, how_sure, points, sentence, share
from sweeper.report_situation import anchor, figure
from sweeper.summary import Line
from sweeper.svg import key
from sweeper.table import score


def over_all(found: Sequence[Contest], ranked: Sequence[Standing], styles: Styles) -> Markup:
    """Return the answer over all situations, the strategies, and the list of situations."""
    rows = [
        [
            join([key(styles[own.strategy]), " ", own.strategy]),
            str(len(own.lines)),
            str(own.best_in),
            f"{100 * own.mean_lost:.1f}",
            f"{100 * own.worst:.1f}",
            f"{100 * own.median(_share):.2g} %".replace("1e+02", "100"),
            _times(own.ratio("train_seconds")),
            _times(own.ratio("peak_memory_bytes")),
            "-" if (forgets := own.forgets()) is None else f"{100 * forgets:.1f}",
        ]
        for own in ranked
    ]
    headings = ["strategy", "tried in", "best in", "lost, mean", "lost, most", "trains", "time", "memory", "forgets"]
    text = (
        "Each strategy's best setting in each situation, chosen on valid and scored on test. Lost: points below the "
        "best strategy of the situation, each task counting the same. Trains: median share of the parameters. "
        "Time, memory: median multiple of full fine-tuning's. Strategies tried in fewer than half of the situations "
        "stand last: they had other rivals."
    )
    return join(
        [
            _overall_answer(found, ranked),
            element("h2", "Over all situations"),
            element(
                "div",
                element(
                    "div",
                    table(headings, rows, label="Strategies over all situations"),
                    element("p", text, class_="soft small"),
                ),
                figure(overview(ranked, styles)),
                class_="pair",
            ),
            element("h2", "Situations", id="situations"),
            _what_won(found),
        ]
    )


def _overall_answer(found: Sequence[Contest], ranked: Sequence[Standing]) -> Markup:
    first, second = ranked[0], ranked[1] if len(ranked) > 1 else None
    gap = first.over(second) if second else None
    settled = sum(bool(contest.over_runner_up and contest.over_runner_up.is_settled) for contest in found)
    if second and gap:
        much = (
            f"{points(gap.mean)} points",
            (
                f"on test over {second.strategy} on average, each task counting the same. To the best of each "
                f"situation it loses {100 * first.mean_lost:.1f}, {second.strategy} {100 * second.mean_lost:.1f}."
            ),
        )
    else:
        much = "no rival", f"It loses {100 * first.mean_lost:.1f} points to the best of each situation."
    sure, why = how_sure(gap, "task")
    forgets = first.forgets()
    time, memory = first.ratio("train_seconds"), first.ratio("peak_memory_bytes")
    costs = [f"forgets {100 * forgets:.1f} points"] if forgets is not None else []
    if time and memory and first.strategy != BASELINE:
        costs.append(f"{_times(time)} the time and {_times(memory)} the memory of full fine-tuning")
    cheap = _cheaper(first, ranked)
    return element(
        "div",
        facts(
            (
                "Which?",
                first.strategy,
                f"Best in {first.best_in} of the {len(first.lines)} situations that it was tried in, and loses least "
                "on average.",
            ),
            ("By how much?", *much),
            ("How sure?", sure, f"{why} In {settled} of {len(found)} situations the winner's lead is settled."),
            (
                "At what cost?",
                f"trains {100 * first.median(_share):.2g} %".replace("1e+02", "100"),
                sentence("of the parameters, which is also what to keep on disk a task", *costs, *cheap),
            ),
        ),
        class_="panel answer",
    )


def _cheaper(first: Standing, ranked: Sequence[Standing]) -> list[str]:
    """Return what another strategy would save, and lose: the one among the widely tried that trains least."""
    widely = [own for own in ranked[1:] if len(own.lines) >= len(first.lines) / 2 and own.median(_share) < 0.1]
    if not widely:
        return []
    own = widely[0]
    time, memory = own.ratio("train_seconds"), own.ratio("peak_memory_bytes")
    saved = f" in {_times(time)} the time and {_times(memory)} the memory of full" if time and memory else ""
    return [f"{own.strategy} trains {100 * own.median(_share):.2g} %{saved}, losing {100 * own.mean_lost:.1f}"]


def _what_won(found: Sequence[Contest]) -> Markup:
    """Return a line for each situation: what is best in it, by how much and at what cost."""
    rows = []
    for contest in found:
        model, task, n_train, steps = contest.situation
        gap = contest.over_runner_up
        rows.append(
            [
                element("a", f"{model} on {task}", href=f"#{anchor(contest.situation)}"),
                setting(contest.winner, contest),
                f"{n_train:,}",
                f"{steps:,}",
                score(contest.winner.spread("test_score")),
                points(gap.mean) if gap else "-",
                f"{points(gap.low)} to {points(gap.high)}"
                if gap and gap.low is not None and gap.high is not None
                else "-",
                _verdict(gap),
                share(contest.winner),
            ]
        )
    headings = ["model and task", "best on valid", "rows", "steps", "test", "ahead by", "95 %", "settled", "trains"]
    return table(headings, rows, label="Situations", words=2)


def _verdict(gap: Lead | None) -> str:
    if gap is None or gap.low is None:
        return "-"
    return "yes" if gap.is_settled else "against" if gap.is_refuted else "no"


def _share(line: Line) -> float:
    return line.mean("trainable_params") / line.mean("total_params")


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}\N{MULTIPLICATION SIGN}"
