"""The parts of the page of an answer that only look things up: reasons, measured situations, figures, regret."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from advisor.recommend import Candidate, Recommendation, fits
from advisor.regret import COMMAND, OWN, Regret, shipped
from advisor.report import evidence, needed, published_text
from sweeper.page import element, join, table

EVIDENCE = ("test, ± std", "trainable", "seconds", "forgets", "trials")
MOST_NEAR = 8
OTHERS = ("best of three", "single best", "rules", "random")


def named(candidates: Sequence[Candidate]) -> str:
    """Return strategies by name."""
    return " or ".join(own.strategy for own in candidates)


def percent(value: float) -> str:
    """Return a share, small ones too."""
    return f"{value:.1f} %" if value >= 0.1 else f"{value:.2g} %"


def listed(lines: Sequence[object]) -> Markup:
    """Return lines as a list; nothing without lines."""
    return element("ul", *(element("li", line) for line in lines)) if lines else Markup("")


def coded(text: str) -> Markup:
    """Return a text with what stands in backticks set as code."""
    parts = text.split("`")
    return join(element("code", part) if place % 2 else part for place, part in enumerate(parts))


def cost(own: Candidate, answer: Recommendation) -> tuple[str, str | Markup]:
    """Return what a candidate costs: in a word, and in a sentence."""
    said = []
    estimate, need = own.estimate, own.need
    if need is not None:
        low, high = need.memory_bytes.low / 1e9, need.memory_bytes.high / 1e9
        verdict = f", {need.verdict}" if need.verdict else ""
        said.append(f"{low:.1f} to {high:.1f} GB of memory{verdict} ({need.under})")
        said.append(f"{need.adapter_bytes / 1e6:,.1f} MB on disk")
    if estimate is not None:
        said.append(
            f"{estimate.trainable_params:,.0f} parameters train ({percent(estimate.trainable_percent)})"
            + (f", {100 * estimate.forgetting:.1f} points forgotten" if estimate.forgetting is not None else "")
        )
    if need is not None:
        return f"{need.memory_bytes.mean / 1e9:.1f} GB", "; ".join(said)
    if estimate is not None and answer.spoke == "evidence":
        return f"{estimate.train_seconds:.2f} s of training", "; ".join(said) + ", measured there"
    if answer.situation.model_params is None:
        said.insert(0, "say the model's size: `--model-params`")
    return "not known", coded("; ".join(said))


def why(answer: Recommendation) -> Iterator[Markup]:
    """Yield the rules, with their sources."""
    yield element("h2", "Why: the rules")
    rules = {rule.name: rule for verdict in answer.verdicts for rule in verdict.rules}
    yield listed(
        [
            join(
                [
                    element("strong", " or ".join(rule.prefer)),
                    f": {rule.because}. ",
                    element("span", f"Source: {rule.source}.", class_="soft"),
                ]
            )
            for rule in rules.values()
        ]
    )


def appendix(answer: Recommendation) -> Iterator[Markup]:
    """Yield what was measured, what others say, what would flip the choice, and what fits."""
    yield element("h2", "Evidence")
    yield listed([coded(sentence) for sentence in evidence(answer)])
    if answer.comparable:
        yield table(
            ["model", "task", "near", "parameters", "rows", "steps", "similarity", "best", "test"],
            [
                [
                    m.model,
                    m.task,
                    "near" if m.is_near(answer.situation) else "fits",
                    f"{m.model_params:,.0f}",
                    f"{m.n_train:,}",
                    f"{m.steps:,}",
                    f"{m.similarity:.2f}" if m.similarity is not None else "-",
                    m.ranked()[0].strategy,
                    f"{100 * m.ranked()[0].mean_test:.1f}",
                ]
                for m in answer.comparable[:MOST_NEAR]
            ],
            caption=f"The nearest of {len(answer.comparable)} measured situations that fit",
            words=3,
        )
    others = [(own.strategy, figure) for own in answer.candidates for figure in own.published]
    if others:
        yield element("h3", "Figures of others")
        yield listed([join([element("strong", name), f": {published_text(figure)}"]) for name, figure in others])
    if answer.flips:
        yield element("h2", "What would flip the choice")
        yield listed(answer.flips)
    needs = [own for own in answer.candidates if own.need is not None]
    if needs:
        yield element("h2", "What it needs")
        yield listed([_need(own) for own in needs])
    yield element("h2", "Also")
    yield listed([f"{remark.text} ({remark.source})" for remark in answer.remarks])


def _need(own: Candidate) -> Markup:
    assert own.need is not None
    kind = None if fits(own) else "bad"
    return join([element("strong", own.strategy, class_=kind), f" {needed(own.need)}"])


def regrets() -> Iterator[Markup]:
    """Yield how good such advice is on tasks that it has not seen."""
    yield element("h2", "How good is such advice on tasks it has not seen?")
    whole, joint = shipped()[0], shipped(joint=True)[0]
    yield element(
        "p",
        f"Each of {whole.groups} tasks was left out in turn, and advice asked for on its situations. The strategy that "
        f"is advised loses {whole.advice:.1f} points to the best there was ({whole.low:.1f} to {whole.high:.1f}); one "
        f"drawn at random {whole.chance:.1f}, the rules alone {whole.rules:.1f}. With settings it is "
        f"{joint.advice:.1f}, against {joint.chance:.1f} at random. The best among the first three of an answer loses "
        f"{whole.best_of_three:.1f}.",
    )
    for caption, found in (
        ("Points lost by the strategy advised, at its best settings", shipped()),
        ("Points lost by strategy and settings together", shipped(joint=True)),
    ):
        yield _regrets(caption, found)
    yield element(
        "p",
        "On the trials and figures that ship with the package, whichever file this advice is from; written by ",
        element("code", COMMAND),
        class_="small soft",
    )


def _regrets(caption: str, found: Sequence[Regret]) -> Markup:
    return table(
        ["measured by", "advice (95 % interval)", *OTHERS, "situations", "90 % covers"],
        [
            [
                {"all": "all", OWN: "own trials"}.get(own.source, own.source),
                f"{own.advice:.2f} ({own.low:.2f} to {own.high:.2f})",
                f"{own.best_of_three:.2f}",
                f"{own.single_best:.2f}",
                f"{own.rules:.2f}",
                f"{own.chance:.2f}",
                str(own.situations),
                f"{100 * own.covered:.0f} %",
            ]
            for own in found
        ],
        caption=caption,
    )
