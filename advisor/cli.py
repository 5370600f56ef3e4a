"""The command ``advisor``: parse, call one function, print. Starts without torch, ray, pandas or scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from advisor.emit.tools import NAMES as TOOLS
from advisor.emit_cli import emitted
from advisor.evidence import PACKAGED, load
from advisor.explain import explained
from advisor.next_cli import next_
from advisor.options import NOTHING_FEASIBLE, fitted_option, fitted_path, question_of, situation_options
from advisor.plan_cli import plan_command
from advisor.recommend import recommend as make_recommendation
from advisor.report import as_json, as_text
from advisor.report_cli import report
from advisor.serve_cli import serve
from sweeper.command import root, run
from sweeper.completion import names
from sweeper.printing import Duration, format_option, print_json, tell, warn


@root("advisor")
def cli() -> None:
    """Which fine-tuning strategy, with which settings, for my model, data and budget?

    \b
    advisor recommend --large-model --compute low
    advisor recommend --model-params 40k --n-train 100 --modality image --task-different
    advisor recommend --data reviews.csv --probe 60s
    advisor explain lora --large-model --compute low
    advisor plan --model-params 7B --gpu-memory 24GB
    advisor next --data reviews.csv      the trials that would settle it
    advisor report --large-model         the answer as one HTML file
    advisor fit                          learn from the trials in results/
    """


cli.add_command(plan_command)
cli.add_command(next_)
cli.add_command(serve)
cli.add_command(report)


@cli.command()
@situation_options
@click.option(
    "--probe",
    "budget",
    type=Duration(),
    metavar="TIME",
    help="For --data: first run short trials of what the answer would be among, for at most this long: 60s, 2m.",
)
@click.option("--results", "folder", metavar="DIR", help="For --probe: the store of its trials. [default: results]")
@fitted_option
@click.option("--emit", "tool", type=click.Choice(TOOLS), help="Instead of the answer: a file that this tool accepts.")
@click.option("--pick", metavar="STRATEGY", help="For --emit: another candidate. [default: the first that fits]")
@click.option("--output", metavar="FILE", help="For --emit: the file to write. [default: standard output]")
@format_option
def recommend(
    budget: float | None,
    folder: str | None,
    fitted: str | None,
    tool: str | None,
    pick: str | None,
    output: str | None,
    form: str,
    **given: Any,
) -> None:
    """Rank strategies for a situation. What is left out is not guessed: the answer says what it depends on.

    \b
    advisor recommend --large-model --compute low
    advisor recommend --small-model --task-similar --data-size large --compute high
    advisor recommend --model-params 124M --task-different --n-train 500 --gpu-memory 16GB --modality text
    advisor recommend --data reviews.csv --model minilm
    advisor recommend --data reviews.csv --model minilm --probe 60s
    advisor recommend --large-model --compute low --model meta-llama/Llama-3.2-1B --emit trl --output sft.yaml
    advisor recommend --data reviews.csv --model minilm --probe 60s --emit sweeper --output grid.toml
    """
    if tool is None and (pick is not None or output is not None):
        raise click.UsageError("--pick and --output are for --emit TOOL")
    if tool is not None and form == "json":
        raise click.UsageError("--format json is for the answer itself: leave it out, or --emit")
    if budget is not None and given["data_name"] is None:
        raise click.UsageError("--probe trains on your own rows: add --data DATA")
    if folder is not None and budget is None:
        raise click.UsageError("--results is for --probe TIME; an answer reads --fitted FILE")
    path = fitted_path(fitted)
    stored = load(path)
    run_probe = None
    if budget is not None:
        from advisor.probe_cli import probed

        run_probe = partial(probed, folder=folder or "results", budget=budget)
    if tool is not None:
        emitted(tool, pick, output, stored, given, run_probe)
        return
    question = question_of(given)
    if run_probe is not None:
        from advisor import probe_report

        found = run_probe(question, stored)
        text, content = probe_report.as_text(found), probe_report.as_json(found)
    else:
        answer = make_recommendation(question.situation, stored)
        text, content = as_text(answer), as_json(answer)
    if form == "json":
        print_json({**content, "fitted": str(path)})
    else:
        click.echo(text, nl=False)
        tell(f"Fitted file: {'shipped with the package' if path == PACKAGED else path}")
    if content.get("feasible") is False:
        raise click.exceptions.Exit(NOTHING_FEASIBLE)


@cli.command()
@click.argument("strategy", required=False, shell_complete=names("strategy"))
@situation_options
@fitted_option
@format_option
def explain(strategy: str | None, fitted: str | None, form: str, **given: Any) -> None:
    """Say in words why a STRATEGY stands where it does in the answer; without one, the first of the answer.

    
    advisor explain --large-model --compute low
    advisor explain lora --model-params 40k --n-train 100 --modality image --task-different
    """
    path = fitted_path(fitted)
    answer = make_recommendation(question_of(given).situation, load(path))
    text = explained(answer, strategy)
    if form == "json":
        print_json({**as_json(answer), "explained": text.split("\n"), "fitted": str(path)})
    else:
        click.echo(text)


@cli.command()
@click.option("--results", "folder", default="results", show_default=True, metavar="DIR", help="The results store.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    help="File to write. [default: DIR/advisor.json]",
)
@format_option
def fit(folder: str, output: str | None, form: str) -> None:
    """Fit the advisor from the trials of a store, those in its sub-folders included.

    \b
    advisor fit
    advisor fit --results runs --output runs/advisor.json
    """
    from advisor.fit import fit as fit_store
    from advisor.fit import write
    from advisor.published import cited_tables, published
    from sweeper.objects import is_url
    from sweeper.results import read_store

    contents = read_store(folder)
    for damage in contents.damage:
        warn(f"Warning: {damage}")
    tables = cited_tables(folder)
    shipped = load(PACKAGED)
    others = published(tables) if tables else (shipped.published, shipped.rates)
    fitted = fit_store(contents, *others)
    path = Path(output) if output is not None else Path() if is_url(folder) else Path(folder)
    path = path / "advisor.json" if output is None else path
    write(fitted, path)
    settings = sum(len(m.settings) for m in fitted.situations)
    tell(f"Fitted {fitted.trials} trials: {len(fitted.situations)} situations, {settings} settings -> {path}")
    if fitted.doubted:
        first = ", ".join(f"{trial} ({reason})" for trial, reason in list(fitted.doubted.items())[:3])
        more = ", ..." if len(fitted.doubted) > 3 else ""
        tell(f"{len(fitted.doubted)} trials are doubted: {first}{more}")
    if form == "json":
        content = {"file": str(path), "trials": fitted.trials, "situations": len(fitted.situations)}
        print_json({**content, "settings": settings, "doubted": dict(fitted.doubted)})


@cli.command()
@click.option(
    "--results", "folder", default="results", show_default=True, metavar="DIR|FILE", help="A store, or tables."
)
@click.option(
    "--group-by", "groups", default="task", show_default=True, metavar="COLUMN,...", help="Left out together."
)
@click.option("--only", metavar="GROUP,...", default="", help="Figures of these groups; all others are learned from.")
@click.option("--seed", default=0, show_default=True, help="Of the resampled groups.")
@format_option
def evaluate(folder: str, groups: str, only: str, seed: int, form: str) -> None:
    """Say how good the advice is on groups that it has not seen, each left out in turn.

    DIR is a results store with the tables that `sweeper import` put there, a folder of such tables, or one of them.

    \b
    advisor evaluate --results results
    advisor evaluate --results published.csv --group-by backbone --format json
    """
    from advisor.evaluate import evaluate as leave_out
    from advisor.table import read
    from sweeper.printing import console
    from sweeper.progress import Bar

    named = [own.strip() for own in only.split(",") if own.strip()]
    with Bar("sources left out", console(stderr=True)) as bar:
        found = leave_out(read(folder), [own.strip() for own in groups.split(",")], seed, named, bar.tell)
    if form == "json":
        print_json(found)
        return
    for block, parts in found.items():
        click.echo(f"{block.replace('_', ' ')}: points lost to the best of each situation")
        for name, own in {"all": parts["total"], **(parts["sources"] if len(parts["sources"]) > 1 else {})}.items():
            click.echo(f"  {name}: {_figures(own)}")


def _figures(own: Mapping[str, Any]) -> str:
    """Return the figures of some situations in a line."""
    if not own["situations"]:
        return "no situation with a choice"
    gap = "no gap" if own["closed_gap"] is None else f"{100 * own['closed_gap']:.0f} % of the gap closed"
    low, high = own["regret_mean_interval"]
    return (
        f"advice {own['regret_mean']:.2f} ({low:.2f} to {high:.2f}), single best {own['regret_sbs']:.2f}, learned "
        f"alone {own['regret_learned']:.2f}, rules "
        f"{own['regret_rule']:.2f}, random {own['regret_random']:.2f}; {gap}; best of three {own['regret_top3']:.2f}; "
        f"90 % intervals cover {100 * own['coverage_90']:.0f} %; {own['situations']} situations, {own['groups']} groups"
    )


def main() -> None:
    """Run the command and turn errors into one line and an exit code."""
    run(cli, "advisor")
