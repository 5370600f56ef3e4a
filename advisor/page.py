"""An answer as one HTML file that needs nothing else, and as a notebook shows it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from advisor.chart import STYLE as CHART
from advisor.chart import Dot, chart
from advisor.evidence import PACKAGED, Fitted, t_quantile
from advisor.page_parts import EVIDENCE, appendix, cost, listed, named, percent, regrets, why
from advisor.recommend import Candidate, Estimate, Recommendation, fits
from advisor.report import headline, settings_text
from sweeper import __version__
from sweeper.page import element, join, page, table

STYLE = (
    CHART
    + """
.verdict { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 0; margin: 1rem 0; padding: 0;
  max-width: none; border: 1px solid var(--line); border-radius: 10px; background: var(--panel); overflow: hidden; }
.verdict > div { padding: .9rem 1.1rem; border-left: 1px solid var(--line); }
.verdict > div:first-child { border-left: 0; }
.verdict dt { color: var(--soft); font-size: .875rem; }
.verdict dd { margin: 0; }
.verdict .big { display: block; font-size: 1.35rem; font-weight: 650; line-height: 1.25; overflow-wrap: anywhere; }
@media (max-width: 60rem) { .verdict { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .verdict > div:nth-child(odd) { border-left: 0; }
  .verdict > div:nth-child(n+3) { border-top: 1px solid var(--line); } }
@media (max-width: 40rem) { .verdict > div { padding: .6rem .75rem; } .verdict .big { font-size: 1.1rem; }
  .verdict dd { font-size: .875rem; } }
.verdict code { white-space: nowrap; }
.candidates td:nth-child(2) { min-width: 17rem; }
.candidates th .soft { font-weight: 400; }
"""
)
MOST_NAMED = 2


def advice(answer: Recommendation, fitted: Fitted, path: Path = PACKAGED) -> str:
    """Return the whole page.

    Args:
        answer: What it is about.
        fitted: What the answer rests on.
        path: The file of that.
    """
    known, *said = headline(answer)
    parts = [
        _verdict(answer),
        join(element("p", line) for line in said[1:]) if answer.spoke != "depends" else listed(said[1:]),
        _scores(answer),
        element("h2", "Candidates"),
        _candidates(answer),
        *why(answer),
        *appendix(answer),
        *regrets(),
    ]
    source = "the file that ships with the package" if path == PACKAGED else str(path)
    footer = (
        f"advisor {__version__}, from {source}: {fitted.trials:,} trials in {len(fitted.situations)} measured "
        f"situations, the newest of {fitted.newest[:10]}. The same in a terminal: {_command(answer)}"
    )
    title = f"Advice: {named(_first(answer))}" if answer.spoke != "depends" else "Advice: it depends"
    return page(title, join(parts), lead=_lead_line(known, answer), brand="advisor", footer=footer, style=STYLE)


def fragment(answer: Recommendation) -> str:
    """Return the answer as markup for a page that is somebody else's: a headline, the candidates, what leads."""
    lines = headline(answer)
    rest = listed([*answer.leads, *(f"or else: {flip}" for flip in answer.flips[:MOST_NAMED])])
    return element("div", element("p", element("strong", " ".join(lines))), _candidates(answer), rest)


def _lead_line(known: str, answer: Recommendation) -> str:
    """Return what is known, in words and in numbers."""
    asked = answer.situation
    numbers = [
        f"{asked.model_params:,.0f} parameters" if asked.model_params is not None else "",
        f"{asked.n_train:,} rows" if asked.n_train is not None else "",
        f"{asked.gpu_memory / 1e9:g} GB" if asked.gpu_memory is not None else "",
        asked.modality or "",
    ]
    said = ", ".join(filter(None, numbers))
    return known.removesuffix(":") + (f" ({said})." if said else ".")


def _first(answer: Recommendation) -> Sequence[Candidate]:
    """Return what is advised: one candidate, or those that the rules put side by side."""
    fitting = [own for own in answer.candidates if fits(own)] or list(answer.candidates)
    if answer.spoke == "evidence":
        return fitting[:1]
    return [own for own in fitting if own.by_rules][:MOST_NAMED] or fitting[:1]


def _verdict(answer: Recommendation) -> Markup:
    """Return which, by how much, how sure and at what cost, before anything else."""
    first = _first(answer)
    which = element("span", named(first) if answer.spoke != "depends" else "it depends", class_="big")
    settings = settings_text(first[0].settings) if answer.spoke != "depends" else "on what was not said, below"
    lead, rest = _lead(answer, first[0])
    sure, because = _sure(answer, first[0])
    price, more = cost(first[0], answer)
    tiles = [
        ("Which", which, settings),
        ("By how much", element("span", lead, class_="big"), rest),
        ("How sure", element("span", sure, class_="big"), because),
        ("At what cost", element("span", price, class_="big"), more),
    ]
    cells = [element("div", element("dt", name), element("dd", big, text)) for name, big, text in tiles]
    return element("dl", *cells, class_="verdict")


def _lead(answer: Recommendation, first: Candidate) -> tuple[str, str]:
    """Return by how much the first leads, and over what."""
    if answer.spoke == "depends":
        return "open", "each case has its own first, below"
    if answer.spoke == "evidence":
        ranked = answer.comparable[0].ranked()
        if len(ranked) < 2:
            return "alone", "no other strategy was tried in the nearest situation"
        gap = ranked[0].ahead_of(ranked[1])
        if gap is None:
            return "not known", f"{ranked[1].strategy} shares too few seeds with it"
        over = f"points of test score over {ranked[1].strategy}, the next (95 % interval {_range(gap[1], gap[2])})"
        return f"{100 * gap[0]:+.1f}", over
    if first.behind is not None:
        return (
            f"{first.behind.behind:.1f} points",
            f"below the best on average, over the measured situations that fit and have it ({first.behind.situations})",
        )
    others = sorted(first.published, key=lambda own: -own.situations)
    if others:
        own = others[0]
        where = f"{own.situations} situation{'s' * (own.situations > 1)} that others measured"
        return f"{own.behind:.1f} points", f"below the best on average, in {where}"
    return "not known", "nothing that was measured speaks for it"


def _sure(answer: Recommendation, first: Candidate) -> tuple[str, str]:
    """Return how sure the advice is, and what that rests on."""
    if answer.spoke == "evidence":
        ranked = answer.comparable[0].ranked()
        gap = ranked[0].ahead_of(ranked[1]) if len(ranked) > 1 else None
        settled = gap is not None and gap[2] > gap[1] and (gap[1] > 0 or gap[2] < 0)
        seeds = len(ranked[0].seeds)
        because = f"by {seeds} seeds of the nearest measured situation"
        if answer.carry:
            because += f"; scores on another task lie within {answer.carry.points:.0f} points, 9 times in 10"
        return "settled" if settled else "not settled", because
    if answer.spoke == "depends":
        return "open", "the rules need an answer that was not given"
    if answer.abstains:
        return "rules only", "nothing measured stands behind them: advisor next names the trials that would settle it"
    trials = "trials that fit stand beside them" if first.estimate else "figures of others stand beside them"
    return "by the rules", f"no measured situation is near enough to overrule them; {trials}"


def _range(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def _scores(answer: Recommendation) -> Markup:
    """Return how the candidates compare, as a picture.

    Scores side by side are of one situation; where none is near, what compares is how far each is below the best of
    the situations that fit.
    """
    if not answer.comparable:
        return Markup("")
    if answer.spoke != "evidence":
        known = sorted((own for own in answer.candidates if own.behind is not None), key=_behind)
        dots = [Dot(own.strategy, _behind(own), None, None, _places(own), _in_portfolio(own)) for own in known]
        text = (
            f"Points below the best, on average over the {len(answer.comparable)} measured situations that fit, near "
            "ones counting more; in brackets, how many have it. Filled: the three that make up for one another best."
        )
        return join([element("h2", "How they compare"), chart(dots, text, "points below the best")])
    near = answer.comparable[0]
    text = (
        f"Test scores on {near.task} with {near.model}, {near.n_train} rows: mean and 95 % interval over seeds, per "
        "cent. Filled: no other is as good on score, trained parameters, seconds and forgetting, and better on one."
    )
    mark = None if near.untouched is None else 100 * near.untouched
    if mark is not None:
        text += f" Dashed: the source model before training, {mark:.1f}."
    dots = [_dot(own) for own in answer.candidates if own.estimate is not None]
    return join([element("h2", "Scores"), chart(dots, text, "test score, per cent", mark)])


def _behind(own: Candidate) -> float:
    assert own.behind is not None
    return own.behind.behind


def _places(own: Candidate) -> str:
    assert own.behind is not None
    return f"{own.behind.behind:.1f} ({own.behind.situations})"


def _in_portfolio(own: Candidate) -> bool:
    return own.behind is not None and own.behind.place is not None


def _dot(candidate: Candidate) -> Dot:
    estimate = candidate.estimate
    assert estimate is not None
    half = interval(estimate)
    mean = 100 * estimate.mean
    low, high = (None, None) if half is None else (mean - 100 * half, mean + 100 * half)
    said = f"{mean:.1f}" if half is None else f"{mean:.1f} ± {100 * half:.1f}"
    return Dot(candidate.strategy, mean, low, high, said, candidate.not_beaten)


def interval(estimate: Estimate) -> float | None:
    """Return half the 95 % interval of a mean over seeds (Student's t); ``None`` for one seed."""
    if estimate.std is None:
        return None
    return t_quantile(estimate.n_trials - 1) * estimate.std / math.sqrt(estimate.n_trials)


def _candidates(answer: Recommendation) -> Markup:
    """Return the candidates with all that is known of each, the first first."""
    origins = Counter(own.settings_from for own in answer.candidates)
    common = next((origin for origin, often in origins.most_common(1) if often > 1), "")
    measured = any(own.estimate is not None for own in answer.candidates)
    drawn = table(
        ["strategy", "settings", *(EVIDENCE if measured else ())],
        [
            [*_named(rank, own, common, answer.spoke == "evidence"), *(_measured(own) if measured else ())]
            for rank, own in enumerate(answer.candidates, start=1)
        ],
        caption=f"Settings, where nothing else is said: {common}." if common else "",
        label="Candidates, the first first",
        words=2,
    )
    return element("div", drawn, class_="candidates")


def _named(rank: int, own: Candidate, common: str, compares: bool) -> list[object]:
    """Return name and settings, with where these are from unless it is what most have in common.

    ``compares`` says that all were measured in one situation, so that one may be beaten by another.
    """
    marks = ["the rules prefer it"] if own.by_rules else []
    marks += ["Pareto set"] if compares and own.not_beaten else []
    notes = [] if own.settings_from == common else [f"from: {own.settings_from}"]
    return [
        join([f"{rank}. {own.strategy}", *(element("div", mark, class_="small soft") for mark in marks)]),
        join([settings_text(own.settings), *(element("div", note, class_="small soft") for note in notes)]),
    ]


def _measured(own: Candidate) -> list[object]:
    """Return what trials say."""
    estimate = own.estimate
    if estimate is None:
        return ["no trial", *["-"] * (len(EVIDENCE) - 1)]
    return [
        f"{100 * estimate.mean:.1f}" + (f" ± {100 * estimate.std:.1f}" if estimate.std is not None else ""),
        f"{estimate.trainable_params:,.0f} ({percent(estimate.trainable_percent)})",
        f"{estimate.train_seconds:.2f} s",
        f"{100 * estimate.forgetting:.1f}" if estimate.forgetting is not None else "-",
        str(estimate.n_trials),
    ]


def _command(answer: Recommendation) -> str:
    from advisor.options import command_line

    return command_line(answer.situation)
