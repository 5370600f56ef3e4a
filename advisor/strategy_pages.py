"""A page for each strategy, by ``python -m advisor.strategy_pages FOLDER``: formula, when, what was measured."""

from __future__ import annotations

import dataclasses
import inspect
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from advisor.evidence import MIN_SEEDS, PACKAGED, Fitted, Measured, Published, load
from advisor.rules import DECISION_TABLE, DEFAULTS, REMARKS, Rule
from advisor.situation import describe
from sweeper.strategies import STRATEGIES, Strategy, hparams_of

COMMAND = "python -m advisor.strategy_pages docs/strategies"


def pages(fitted: Fitted) -> dict[str, str]:
    """Return file name -> text of every page, an index of them included."""
    texts = {f"{name}.md": "\n".join(_page(name, strategy, fitted)) for name, strategy in STRATEGIES.items()}
    return {"README.md": "\n".join(_index(fitted)), **texts}


def _index(fitted: Fitted) -> Iterator[str]:
    yield "# Strategies\n"
    yield f"One page each, written by `{COMMAND}` from docstrings, rules and the shipped trials."
    yield "Behind: points of the test score below the best strategy of a measured situation, the mean over those in"
    yield "which it was tried. Not every strategy was tried in every situation: ask `advisor recommend` about yours.\n"
    yield "| strategy | what trains | behind | best in | tried in |"
    yield "|---|---|---|---|---|"
    found = {name: _tried(name, fitted) for name in STRATEGIES}
    for name, tried in sorted(found.items(), key=lambda own: _behind(own[1])):
        first = _docstring(STRATEGIES[name])[0]
        mean = f"{_behind(tried):.1f}" if tried else "-"
        yield f"| [{name}]({name}.md) | {first} | {mean} | {sum(not lost for _, lost in tried)} | {len(tried)} |"
    yield ""


def _page(name: str, strategy: type[Strategy], fitted: Fitted) -> Iterator[str]:
    first, formula, text, meanings = _docstring(strategy)
    yield f"# {name}\n\n{first}\n\n```text\n{formula}\n```\n"
    yield from ([text, ""] if text else [])
    yield "## When\n"
    yield from _when(name)
    yield "\n## Settings\n"
    yield from _settings(strategy, meanings)
    if name in DEFAULTS:
        values = ", ".join(f"{key} {value}" for key, value in DEFAULTS[name].settings.items())
        yield f"\nWhere no trial speaks, the advisor starts from: {values} ({DEFAULTS[name].source})."
    yield "\n## What was measured\n"
    yield from _evidence(name, _tried(name, fitted))
    published = [own for own in fitted.published if own.strategy == name]
    if published:
        yield "\n## What others measured\n"
        yield from map(_others, published)
    yield "\n## Try it\n"
    yield f"```bash\nsweeper launch --grid strategies --strategy {name}"
    yield f"sweeper launch --grid strategies --strategy {name} --data reviews.csv --model minilm\n```"
    yield f"\nWritten by `{COMMAND}`.\n"


def _docstring(strategy: type[Strategy]) -> tuple[str, str, str, dict[str, str]]:
    """Return a strategy's first line, its formula, the rest of the text, and what its fields mean."""
    first, *parts = re.split(r"\n\s*\n", inspect.getdoc(strategy) or "")
    formula = ""
    meanings: dict[str, str] = {}
    texts = []
    for part in parts:
        if part.startswith("Formula: "):
            formula = part.removeprefix("Formula: ").rstrip(".").strip("`")
        elif part.startswith("Attributes:"):
            for entry in re.split(r"\n    (?=\w+:)", part)[1:]:
                field, _, meaning = entry.partition(":")
                meanings[field] = " ".join(meaning.split())
        else:
            texts.append(part)
    return first, formula, "\n\n".join(texts).replace("``", "`"), meanings


def _when(name: str) -> Iterator[str]:
    rules = [rule for rule in DECISION_TABLE if name in rule.prefer]
    for rule in rules:
        yield f"- **{_conditions(rule)}**: {rule.because} ({rule.source})."
    if not rules:
        yield "- No rule of the decision table names it; it is advised where measurements speak for it."
    plain = name.replace("_", " ").lower()
    for remark in REMARKS:
        if plain in remark.text.lower() or name in remark.text.lower():
            yield f"- {remark.text} ({remark.source})."


def _conditions(rule: Rule) -> str:
    return ", ".join(
        " or ".join(sorted(describe(question, answer) for answer in answers)) for question, answers in rule.when.items()
    )


def _settings(strategy: type[Strategy], meanings: Mapping[str, str]) -> Iterator[str]:
    yield "| setting | default | a sweep tries | what it is |"
    yield "|---|---|---|---|"
    defaults: dict[str, object] = {**hparams_of(strategy())}
    defaults |= {f.name: f.default for f in dataclasses.fields(strategy) if f.name not in defaults}  # type: ignore[arg-type]
    for field, default in defaults.items():
        space = ", ".join(map(str, strategy.space.get(field, ())))
        yield f"| `{field}` | {default} | {space} | {meanings.get(field, '').replace('``', '`')} |"
    yield f"| `lr` | set by the grid | {', '.join(map(str, strategy.space['lr']))} | learning rate |"


def _tried(name: str, fitted: Fitted) -> list[tuple[Measured, float]]:
    """Return the situations with enough seeds in which a strategy was tried, and its points below the best there."""
    found = []
    for own in fitted.situations:
        ranked = [setting for setting in own.ranked() if len(setting.seeds) >= MIN_SEEDS]
        mine = next((setting for setting in ranked if setting.strategy == name), None)
        if mine is not None and len(ranked) > 1:
            found.append((own, 100 * (max(setting.mean_test for setting in ranked) - mine.mean_test)))
    return sorted(found, key=lambda pair: (pair[0].modality, pair[0].task, pair[0].model, pair[0].n_train))


def _behind(tried: Sequence[tuple[Measured, float]]) -> float:
    return statistics.fmean(lost for _, lost in tried) if tried else float("inf")


def _evidence(name: str, tried: Sequence[tuple[Measured, float]]) -> Iterator[str]:
    if not tried:
        yield "Nothing yet: no shipped situation has it beside another strategy on enough seeds."
        return
    best = sum(not lost for _, lost in tried)
    situations = "situation" if len(tried) == 1 else "situations"
    yield f"In {len(tried)} {situations} of the shipped trials, best in {best}; {_behind(tried):.1f} points behind the"
    yield "best on average. Settings and rates are chosen on valid, scores are of test: mean ± standard deviation"
    yield "over seeds.\n"
    yield "| model | task | rows | steps | settings | score | behind | trained | forgets |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for own, lost in tried:
        mine = own.best(name)
        settings = ", ".join(f"{key}={value}" for key, value in {**mine.hparams, "lr": mine.train["lr"]}.items())
        spread = f" ± {100 * mine.std_test:.1f}" if mine.std_test is not None else ""
        forgets = "-" if mine.forgetting is None else f"{100 * mine.forgetting:.1f}"
        share = 100 * mine.trainable_params / mine.total_params
        yield (
            f"| {own.model} | {own.task} | {own.n_train} | {own.steps} | {settings} | "
            f"{100 * mine.mean_test:.1f}{spread} | {lost:.1f} | {share:.2g} % | {forgets} |"
        )


def _others(own: Published) -> str:
    times = "situation" if own.situations == 1 else "situations"
    return (
        f"- {own.behind:.1f} points below the best on average in {own.situations} {times}, best in {own.best_in}; "
        f"{own.score:g} on {own.task} with {own.backbone} ({own.row})"
    )


def main(folder: str) -> None:
    """Write all pages into a folder."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, text in pages(load(PACKAGED)).items():
        (target / name).write_text(text)


if __name__ == "__main__":
    main(sys.argv[1])
