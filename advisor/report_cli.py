"""The command ``advisor report``: the answer as one HTML file."""

from __future__ import annotations

from typing import Any

import click

from advisor.evidence import load
from advisor.options import NOTHING_FEASIBLE, fitted_option, fitted_path, question_of, situation_options
from advisor.recommend import recommend
from sweeper.output import place_of_page, whole
from sweeper.printing import format_option, print_json, tell


@click.command()
@situation_options
@click.option("--output", default="advice.html", show_default=True, metavar="FILE.html", help="The file to write.")
@fitted_option
@format_option
def report(output: str, fitted: str | None, form: str, **given: Any) -> None:
    """Write the recommendation and all that it rests on as one HTML file, which needs no network.

    \b
    advisor report --large-model --compute low
    advisor report --model-params 40k --n-train 100 --modality image --task-different --output advice.html
    """
    file = place_of_page(output)
    path = fitted_path(fitted)
    stored = load(path)
    from advisor.page import advice

    answer = recommend(question_of(given).situation, stored)
    text = advice(answer, stored, path)
    with whole(file) as written:
        written.write_text(text, encoding="utf-8")
    size = len(text.encode())
    tell(f"{file}: {size / 1e3:,.0f} kB, for any browser")
    if form == "json":
        print_json({"file": str(file), "bytes": size, "feasible": answer.feasible})
    if not answer.feasible:
        raise click.exceptions.Exit(NOTHING_FEASIBLE)
