"""Which tools there are, and a candidate of an answer as a configuration for one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.emit import axolotl, llama_factory, peft, script, torchtune, trl
from advisor.emit.job import CannotSayError, Job
from advisor.recommend import Recommendation, fits
from advisor.report import in_a_line
from sweeper.suggest import no_such

if TYPE_CHECKING:
    from advisor.own import OwnRows

SWEEPER = "sweeper"
TOOLS: Mapping[str, Callable[[Job], str]] = {
    "peft": peft.emit,
    "axolotl": axolotl.emit,
    "llama-factory": llama_factory.emit,
    "torchtune": torchtune.emit,
    "trl": trl.emit,
    "script": script.emit,
}
NAMES = (SWEEPER, *TOOLS)
# Models that have a name here and another on the Hub.
ON_HUB = {
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "minilm_l3": "sentence-transformers/paraphrase-MiniLM-L3-v2",
}


def emit(
    answer: Recommendation,
    tool: str,
    strategy: str | None = None,
    model: str | None = None,
    own: OwnRows | None = None,
    folder: Path = Path(),
) -> str:
    """Return a file that a tool accepts.

    Args:
        answer: A recommendation.
        tool: One of `NAMES`.
        strategy: A candidate of the answer; its first that fits into memory, if none is named.
        model: As the tool's user names it; of the user's rows, if there are some.
        own: The user's rows.
        folder: Where the file will lie, for a grid, which names the rows from there.

    Raises:
        ValueError: there is no such tool or candidate, or the tool cannot say it; what it can is named.
    """
    if tool not in NAMES:
        raise no_such("tool", tool, NAMES)
    found = {own.strategy: own for own in answer.candidates}
    if strategy is not None and strategy not in found:
        raise no_such("candidate", strategy, found)
    name = strategy or next((own.strategy for own in answer.candidates if fits(own)), answer.candidates[0].strategy)
    if tool == SWEEPER:
        from advisor.emit import grid  # torch: what cannot run is left out

        return grid.emit(answer, name, in_a_line(answer), own, folder)
    jobs = {each: _job(answer, each, model, own) for each in found}
    try:
        return TOOLS[tool](jobs[name])
    except CannotSayError as error:
        can = [each for each, job in jobs.items() if _can(tool, job)]
        others = [other for other in TOOLS if _can(other, jobs[name])]
        out = (
            f"Of this answer {tool} has {', '.join(can)}: --pick {can[0]}" if can else f"{tool} has none of this answer"
        )
        raise ValueError(f"{error}. {out}; {name} goes with --emit {', '.join([SWEEPER, *others])}") from None


def _can(tool: str, job: Job) -> bool:
    try:
        TOOLS[tool](job)
    except CannotSayError:
        return False
    return True


def _job(answer: Recommendation, strategy: str, model: str | None, own: OwnRows | None) -> Job:
    """Return what a configuration is written from."""
    candidate = next(each for each in answer.candidates if each.strategy == strategy)
    why = in_a_line(answer)
    if own is None:
        return Job(candidate, answer.situation, why, model)
    name = own.place.model
    text = own.inputs[0] if own.modality == "text" and own.inputs else None
    return Job(
        candidate,
        answer.situation,
        why,
        model or ON_HUB.get(name) or (name.removeprefix("hf:") if name.startswith("hf:") else None),
        own.data,
        text,
        own.label,
        own.work,
    )
