"""``advisor recommend --emit``: the answer as a file that another tool accepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advisor.emit.tools import emit
from advisor.evidence import Fitted
from advisor.options import NOTHING_FEASIBLE, Question, question_of
from advisor.recommend import recommend
from sweeper.output import place_of

if TYPE_CHECKING:
    from advisor.probe import Probed

    Probe = Callable[[Question, Fitted], Probed]


def emitted(
    tool: str, pick: str | None, output: str | None, fitted: Fitted, given: dict[str, Any], probe: Probe | None
) -> None:
    """Write the configuration to a new file, or print it.

    Args:
        tool: Its name.
        pick: A candidate of the answer; the first that fits, if ``None``.
        output: The file.
        given: What is known of the situation; a model without own rows is the tool's to load.
        probe: Runs short trials on own rows before it answers.

    Raises:
        ValueError: the tool cannot say the candidate, or the file is there already.
        click.exceptions.Exit: nothing fits into memory.
    """
    model = None if given["data_name"] is not None else given["model"]
    file = Path(output) if output is not None else None
    if file is not None and file.exists():
        raise ValueError(f"{output!r} is there already: --output FILE names another, or delete it")
    if file is not None:
        place_of(file)
    question = question_of(given if model is None else {**given, "model": None})
    # Other tools do not cut texts where ours do.
    question = replace(question, situation=replace(question.situation, seq_len=given["seq_len"]))
    answer = recommend(question.situation, fitted) if probe is None else probe(question, fitted).after
    if not answer.feasible:
        click.echo(
            "Error: nothing of the answer fits into the memory: the same without --emit says what is short", err=True
        )
        raise click.exceptions.Exit(NOTHING_FEASIBLE)
    text = emit(answer, tool, pick, model, question.own, file.parent if file else Path())
    if file is None:
        click.echo(text, nl=False)
        return
    with file.open("x", encoding="utf-8") as out:
        out.write(text)
    click.echo(f"{file}: for {tool}", err=True)
