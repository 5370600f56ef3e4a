"""``advisor recommend --emit``: the answer as a file that another tool accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from advisor.emit.tools import emit
from advisor.evidence import load
from advisor.options import NOTHING_FEASIBLE, fitted_path, question_of
from advisor.recommend import recommend
from sweeper.output import place_of


def emitted(
    tool: str,
    pick: str | None,
    output: str | None,
    fitted: str | None,
    given: dict[str, Any],
    beside: Mapping[str, object],
) -> None:
    """Write the configuration to a new file, or print it.

    Args:
        tool: Its name.
        pick: A candidate of the answer; the first that fits, if ``None``.
        output: The file.
        fitted: As the user named it.
        given: What is known of the situation; a model without own rows is the tool's to load.
        beside: Options that do not go with this -> what was given.

    Raises:
        ValueError: the tool cannot say the candidate, or the file is there already.
        click.exceptions.Exit: nothing fits into memory.
    """
    for option, value in beside.items():
        if value:
            raise click.UsageError(f"{option} is for the answer itself: leave it out, or --emit")
    model = None if given["data_name"] is not None else given["model"]
    file = Path(output) if output is not None else None
    if file is not None and file.exists():
        raise ValueError(f"{output!r} is there already: --output FILE names another, or delete it")
    if file is not None:
        place_of(file)
    question = question_of(given if model is None else {**given, "model": None})
    situation = replace(question.situation, seq_len=given["seq_len"])  # other tools do not cut texts where ours do
    answer = recommend(situation, load(fitted_path(fitted)))
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
