"""The page of ``advisor serve``: four questions as a plain form, and the answer to them below or beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from advisor.feasible import Need
from advisor.recommend import Candidate, Recommendation, fits
from advisor.report import as_text, what_fits
from advisor.rules import Verdict
from advisor.situation import QUESTIONS, Situation, describe, flag, parse_bytes, parse_count
from sweeper.page import element, join, page, table
from sweeper.suggest import no_such

# Question -> how it is asked, and what stands beside it.
ASKED = {
    "large": ("Is the model large?", "More than 1 B parameters."),
    "data": ("How many labelled rows are there?", "Small: up to 2,000. Medium: up to 50,000."),
    "compute": ("How much GPU memory is there?", "Low: below 24 GB, or none. High: from 80 GB on."),
    "similar": (
        "Is the task like what the model was pretrained on?",
        "To BERT, reviews of films are; to ImageNet, X-rays are not.",
    ),
}
WORDS = {True: "Yes", False: "No"}
UNKNOWN = "Not known"
MODALITIES = ("text", "image", "tabular")
# What may be said besides: how it is asked, and an example.
NUMBERS = {
    "model_params": ("Parameters of the model", "7B"),
    "n_train": ("Labelled training rows", "500"),
    "gpu_memory": ("GPU memory", "16GB"),
}

STYLE = """
.ask { display: grid; grid-template-columns: minmax(18rem, 24rem) minmax(0, 1fr); gap: 2.5rem; align-items: start; }
form { position: sticky; top: 1rem; }
fieldset { padding: .5rem 1rem 1rem; }
fieldset p { margin: 0 0 .6rem; }
.choice { display: flex; flex-wrap: wrap; gap: .4rem; }
.choice label { border: 1px solid var(--edge); border-radius: 99px; padding: .2rem .8rem .2rem .6rem; cursor: pointer; }
.choice label:has(:checked) { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
.choice label:has(:focus-visible) { outline: 3px solid var(--accent); outline-offset: 2px; }
.choice input { margin: 0 .3rem 0 0; }
.more label { display: block; margin: .6rem 0 .15rem; }
.more input, .more select { width: 100%; }
.buttons { display: flex; gap: 1rem; align-items: center; margin-top: 1rem; }
.says { border-left: 4px solid var(--accent); }
.says h2 { font-size: 1.5rem; margin: 0 0 .25rem; }
.reasons li { margin-bottom: .5rem; }
section > h3:first-child { margin-top: 1.5rem; }
#answer { scroll-margin-top: 50vh; }
#answer pre { white-space: pre-wrap; }
#answer tbody th .soft { display: block; font-weight: 400; min-width: 8rem; max-width: 24rem; }
@media (max-width: 60rem) { .ask { grid-template-columns: minmax(0, 1fr); gap: 1rem; } form { position: static; }
  #answer { scroll-margin-top: 0; } }
"""


def situation_of(given: Mapping[str, str]) -> Situation:
    """Return what a form says: the fields of a `Situation` by their names, numbers as people write them.

    Raises:
        ValueError: a field or a value is unknown, or two contradict one another.
    """
    fields: dict[str, Any] = {}
    for name, text in given.items():
        if name in QUESTIONS:
            answers = {_value(own): own for own in QUESTIONS[name]}
            if text not in answers:
                raise no_such("answer", text[:80], answers, f" to {name}")
            fields[name] = answers[text]
        elif name == "modality":
            if text not in MODALITIES:
                raise no_such("modality", text[:80], MODALITIES)
            fields[name] = text
        elif name == "n_train":
            if not (text.isascii() and text.isdigit() and int(text[:20]) > 0 and len(text) <= 12):
                raise ValueError(f"{text[:80]!r} is no number of rows. Example: 500")
            fields[name] = int(text)
        elif name in NUMBERS:
            fields[name] = (parse_count if name == "model_params" else parse_bytes)(text[:80])
        else:
            raise no_such("field", name[:80], [*QUESTIONS, "modality", *NUMBERS])
    return Situation(**fields)


def answered(given: Mapping[str, str], answer: Recommendation | None, wrong: str = "") -> str:
    """Return the page.

    Args:
        given: What was filled in, which stays so.
        answer: To it.
        wrong: Why there is none.
    """
    told = element("p", element("strong", "That cannot be answered: "), wrong, ".", class_="panel bad", role="alert")
    body = element(
        "div",
        element("form", *_form(given), method="get", action="/#answer"),
        element("div", *(_answer(given, answer) if answer else [told]), id="answer"),
        class_="ask",
    )
    lead = "Four questions; leave out what you do not know, and the answer says what it depends on."
    return page("Which fine-tuning strategy?", body, lead=lead, brand="advisor", style=STYLE, calls_home=True)


def _value(answer: object) -> str:
    return str(answer).lower()


def _form(given: Mapping[str, str]) -> Iterator[Markup]:
    for name, (question, hint) in ASKED.items():
        choices = [(_value(own), WORDS.get(own, str(own).capitalize())) for own in QUESTIONS[name]]  # type: ignore[call-overload]
        yield element(
            "fieldset",
            element("legend", question),
            element("p", hint, class_="soft small"),
            element(
                "div",
                *(
                    element(
                        "label",
                        element("input", type="radio", name_=name, value=value, checked=given.get(name, "") == value),
                        shown,
                    )
                    for value, shown in (*choices, ("", UNKNOWN))
                ),
                class_="choice",
            ),
        )
    fields = [
        element("label", "What the rows are", for_="modality"),
        element(
            "select",
            *(
                element("option", own or UNKNOWN, value=own, selected=given.get("modality", "") == own)
                for own in ("", *MODALITIES)
            ),
            name_="modality",
            id="modality",
        ),
    ]
    for name, (question, example) in NUMBERS.items():
        value = given.get(name, "")
        fields.append(element("label", question, element("span", f" such as {example}", class_="soft"), for_=name))
        fields.append(element("input", name_=name, id=name, value=value, autocomplete="off", maxlength=20))
    said = any(given.get(name) for name in ("modality", *NUMBERS))
    summary = element("summary", "Numbers, where you have them: they bring evidence in")
    yield element("details", summary, *fields, class_="more", open=said)
    again = element("a", "Start over", href="/") if given else ""
    yield element("div", element("button", "Recommend"), again, class_="buttons")


def _answer(given: Mapping[str, str], answer: Recommendation) -> Iterator[Markup]:
    yield element("section", *_headline(answer), class_="panel says", aria_label="Recommendation")
    if answer.spoke == "depends":
        rows = [(_case(verdict), " or ".join(verdict.prefer)) for verdict in answer.verdicts]
        yield table(["In this case", "take"], rows, caption="What it depends on", words=2)
    reasons = {rule.name: rule for verdict in answer.verdicts for rule in verdict.rules}.values()
    why = [
        element(
            "li",
            element("strong", " or ".join(rule.prefer)),
            f": {rule.because}. ",
            element("span", f"Source: {rule.source}.", class_="soft small"),
        )
        for rule in reasons
    ]
    measured = [element("li", line, ".") for line in _evidence(answer)]
    why = [*measured, *why] if answer.spoke == "evidence" else [*why, *measured]
    yield element("section", element("h3", "Why"), element("ul", *why, class_="reasons"))
    yield element("section", element("h3", "Candidates"), _candidates(answer))
    if answer.flips:
        flips = (element("li", flip) for flip in answer.flips)
        yield element("section", element("h3", "What would flip the choice"), element("ul", *flips))
    flags = " ".join(_flags(answer.situation))
    query = urlencode(dict(_fields(answer.situation)))
    yield element(
        "section",
        element("h3", "The same elsewhere"),
        element("pre", f"advisor recommend {flags}".strip(), tabindex=0),
        element("p", element("a", "As JSON", href=f"/recommend?{query}"), class_="small"),
        element(
            "details",
            element("summary", "All of it as text: evidence, figures of others, further advice"),
            element("pre", as_text(answer), tabindex=0),
        ),
    )


def _headline(answer: Recommendation) -> Iterator[Markup]:
    known = [describe(q, value) for q in QUESTIONS if (value := answer.situation.answer(q)) is not None]
    situation = f"for {', '.join(known)}" if known else "as long as nothing is said"
    prefer = " or ".join(answer.verdicts[0].prefer)
    if answer.spoke == "depends":
        yield element("h2", "It depends")
        what = f"on what else there is to know, {situation}" if known else "on what you know: nothing was said yet"
        yield element("p", f"{what}.", class_="soft")
        return
    if answer.spoke == "evidence":
        first = answer.candidates[0]
        yield element("h2", first.strategy)
        yield element("p", f"{_settings(first)}: by trials of a near situation, {situation}.", class_="soft")
        if first.strategy not in prefer:
            yield element("p", f"The rules alone would say {prefer}.")
    else:
        yield element("h2", prefer)
        yield element("p", f"by the rules, {situation}.", class_="soft")
        yield from (element("p", line) for line in what_fits(answer))
    if answer.abstains:
        yield element("p", "Nothing measured stands behind it: `advisor next` names the trials to run.")


def _case(verdict: Verdict) -> str:
    """Return under what a verdict holds, in words."""
    return ", ".join(
        describe(question, answers[0])
        if question in ("large", "similar")
        else f"{' or '.join(map(str, answers))} {question}"
        for question, answers in verdict.given.items()
    )


def _evidence(answer: Recommendation) -> Iterator[str]:
    if answer.situation.large is None or not answer.comparable:
        return
    nearest = answer.comparable[0]
    yield (
        f"Measured {'near it' if nearest.is_near(answer.situation) else 'in a situation that fits the answers'}: "
        f"{nearest.model} ({nearest.model_params:,.0f} parameters) on {nearest.task}, {nearest.n_train} rows"
    )
    yield from answer.leads
    if answer.carry is not None:
        yield f"On another task, expect its test scores within {answer.carry.points:.0f} points"


def _candidates(answer: Recommendation) -> Markup:
    measured = any(own.estimate for own in answer.candidates)
    needs = any(own.need for own in answer.candidates)
    headings = ["Strategy", "Said by"]
    headings += ["Test score, %", "Trained, %", "Seconds"] if measured else []
    headings += ["Memory, GB"] if needs else []
    rows = []
    for own in answer.candidates:
        cells: list[Any] = [
            join(
                [
                    element("span", own.strategy, class_=None if fits(own) else "bad"),
                    element("span", _settings(own), class_="soft small"),
                ],
                " ",
            ),
            "rules" if own.by_rules else "trials" if own.estimate else "others",
        ]
        if measured:
            cells += _measured(own)
        if needs:
            cells.append(_memory(own.need))
        rows.append(cells)
    return table(headings, rows, label="Candidates, the best first", words=2)


def _measured(own: Candidate) -> list[str]:
    found = own.estimate
    if found is None:
        return ["-"] * 3
    spread = f" ± {100 * found.std:.1f}" if found.std is not None else ""
    return [f"{100 * found.mean:.1f}{spread}", f"{found.trainable_percent:.1f}", f"{found.train_seconds:.2f}"]


def _memory(own: Need | None) -> str:
    if own is None:
        return "-"
    return f"{own.memory_bytes.mean / 1e9:.1f}" + (f", {own.verdict}" if own.verdict else "")


def _settings(own: Candidate) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in own.settings.items()
    )


def _fields(situation: Situation) -> Iterator[tuple[str, str]]:
    """Yield what is known as the fields of a question to /recommend; a number stands for the answer that it gives."""
    by_number = {"large": "model_params", "data": "n_train", "compute": "gpu_memory"}
    for name in (*QUESTIONS, "modality"):
        number = getattr(situation, by_number.get(name, name))
        if number is not None:
            yield by_number.get(name, name), _value(f"{number:.15g}" if isinstance(number, float) else number)
        elif getattr(situation, name) is not None:
            yield name, _value(getattr(situation, name))


def _flags(situation: Situation) -> Iterator[str]:
    known = dict(_fields(situation))
    for name, value in known.items():
        if name == "gpu_memory":
            yield f"--gpu-memory {float(value) / 1e9:g}GB"
        elif name in ("model_params", "n_train", "modality"):
            yield f"--{name.replace('_', '-')} {value}"
        else:
            yield flag(name, situation.answer(name))
