"""Which, by how much, how sure, at what cost: the four questions that a report answers first."""

from __future__ import annotations

from markupsafe import Markup

from sweeper.contest import Contest, Lead
from sweeper.figures import count, megabytes, seconds, setting
from sweeper.page import element
from sweeper.summary import Line
from sweeper.table import score, short


def facts(*pairs: tuple[str, object, object]) -> Markup:
    """Return questions with a short answer and a longer one each, side by side where there is room."""
    return element(
        "dl",
        *(
            element("div", element("dt", ask), element("dd", short_one, class_="big"), element("dd", long_one))
            for ask, short_one, long_one in pairs
        ),
        class_="facts",
    )


def answer(contest: Contest) -> Markup:
    """Return which, by how much, how sure, and at what cost."""
    winner = contest.winner
    cheaper = ""
    if contest.frugal:
        frugal = contest.frugal
        cheaper = element(
            "p",
            element("strong", "Nearly as good for less: "),
            f"{setting(frugal, contest)} trains {share(frugal)} of the parameters "
            f"({count(frugal.mean('trainable_params'))}) and is within a point on valid; "
            f"test {score(frugal.spread('test_score'))}.",
            class_="small",
        )
    return element(
        "div",
        facts(
            ("Which?", setting(winner, contest), _which(contest)),
            ("By how much?", *by_how_much(contest)),
            ("How sure?", *how_sure(contest.over_runner_up)),
            ("At what cost?", f"{seconds(winner.mean('train_seconds'))} to train", cost(winner)),
        ),
        cheaper,
        class_="panel answer",
    )


def _which(contest: Contest) -> str:
    winner = contest.winner
    metric = contest.metric.replace("_", " ")
    rivals = len(contest.lines) - 1
    chosen = f"Best on valid of {rivals + 1} settings." if rivals else "The only setting with a complete trial."
    return f"Test {metric} {score(winner.spread('test_score'))} at learning rate {short(winner.train['lr'])}. {chosen}"


def by_how_much(contest: Contest) -> tuple[object, object]:
    """Return the lead over the runner-up on test, and over what else one would compare with."""
    others = [
        f"{signed(gap)} over {name}"
        for name, gap in (
            ("full fine-tuning", contest.over_baseline),
            ("the source model before training", contest.over_source),
        )
        if gap
    ]
    if contest.runner_up is None:
        return "no rival", sentence("Nothing else has a complete trial", *others)
    rival, gap = setting(contest.runner_up, contest), contest.over_runner_up
    if gap is None:
        return "not comparable", sentence(f"It shares no seed with {rival}", *others)
    if gap.mean < 0:
        return f"{signed(gap)} points", sentence(f"on test behind {rival}, though ahead on valid", *others)
    return f"{signed(gap)} points", sentence(f"on test over {rival}", *others)


def how_sure(gap: Lead | None, over: str = "seed") -> tuple[object, object]:
    """Return whether the lead is more than chance, and its interval."""
    if gap is None:
        return "unknown", "There is nothing to compare with."
    if gap.low is None or gap.high is None:
        return "unknown", f"One {over}: no interval. Run it with three {over}s or more."
    interval = f"95 % interval {points(gap.low)} to {points(gap.high)} points, paired over {gap.pairs} {over}s"
    if gap.is_settled:
        return element("span", "settled", class_="good"), f"{interval}."
    if gap.is_refuted:
        return element("span", "settled against it", class_="bad"), f"{interval}: valid and test disagree."
    return element("span", "not settled", class_="warn"), f"{interval}: it holds 0."


def cost(line: Line) -> str:
    """Return what a line costs besides time."""
    parts = [
        f"{count(line.mean('trainable_params'))} trainable ({share(line)})",
        f"{megabytes(line.mean('peak_memory_bytes') / 2**20)} memory",
    ]
    saved, forgets = line.spread("saved_bytes"), line.spread("forgetting")
    parts += [f"{megabytes(saved.mean / 2**20)} to keep"] if saved else []
    parts += [f"forgets {100 * forgets.mean:.1f} points"] if forgets else []
    return ", ".join(parts) + "."


def share(line: Line) -> str:
    """Return the share of the parameters that train."""
    return f"{100 * line.mean('trainable_params') / line.mean('total_params'):.2g} %".replace("1e+02", "100")


def points(value: float) -> str:
    """Return a difference of scores in points, with its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def signed(gap: Lead) -> str:
    """Return the mean of a lead in points."""
    return points(gap.mean)


def sentence(*parts: str) -> str:
    """Return parts as one sentence."""
    text = "; ".join(parts)
    return f"{text}."
