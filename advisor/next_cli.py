"""The command ``advisor next``: the trials that would settle what to choose."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from advisor.evidence import load
from advisor.options import fitted_option, fitted_path, question_of, situation_options
from advisor.recommend import recommend
from sweeper.output import place_of
from sweeper.printing import format_option, print_json, tell


@click.command("next")
@situation_options
@click.option("--seeds", type=click.IntRange(2, 20), default=3, show_default=True, help="Of each trial that is new.")
@click.option("--output", metavar="FILE.toml", help="Write the trials as a grid for `sweeper launch --grid FILE.toml`.")
@fitted_option
@format_option
def next_(seeds: int, output: str | None, fitted: str | None, form: str, **given: Any) -> None:
    """Name the few trials that would most reduce what is uncertain in the advice.

    Where nothing stored is near: a small grid of the likeliest strategies. Where near trials leave the lead open: more
    seeds of those in question, as many as would settle it if the gap stays what it is.

    \b
    advisor next --data reviews.csv --model minilm --output next.toml
    advisor next --model-params 40k --n-train 100 --modality image --task-different
    sweeper launch --grid next.toml && advisor fit
    """
    file = Path(output) if output is not None else None
    if file is not None and file.suffix != ".toml":
        raise ValueError(f"--output must end in .toml, got {output!r}")
    if file is not None and file.exists():
        raise ValueError(f"{output!r} is there already: --output FILE.toml names another, or delete it")
    if file is not None:
        place_of(file)
    stored = load(fitted_path(fitted))
    question = question_of(given)
    from advisor.next_trials import next_trials, to_toml  # torch: what cannot run is left out

    found = next_trials(recommend(question.situation, stored), question.own, seeds, file.parent if file else Path())
    if file is not None and found.trials:
        with file.open("x", encoding="utf-8") as out:
            out.write(to_toml(found))
    launch = f"sweeper launch --grid {shlex.quote(str(file))}" if file is not None and found.trials else None
    if form == "json":
        content = {"why": list(found.why), "trials": found.trials, "grid": dict(found.grid) if found.grid else None}
        print_json({**content, "file": str(file) if launch else None, "launch": launch})
        return
    click.echo("\n".join(found.why))
    if not found.trials:
        tell("No trials to run." + (f" {output} was not written." if output else ""))
        return
    click.echo("")
    if launch is None:
        click.echo(to_toml(found), nl=False)
        tell("The same command with --output next.toml writes this; then: sweeper launch --grid next.toml")
    else:
        click.echo(launch)
        tell("Then `advisor fit`, and ask again.")
