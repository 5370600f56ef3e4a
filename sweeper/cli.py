"""The command ``sweeper``: parse, call one function, print."""

from __future__ import annotations

from typing import Any

import click

from sweeper.adapters_cli import adapters
from sweeper.command import root, run
from sweeper.completion import only, only_grid, stored
from sweeper.data_cli import data, init
from sweeper.doctor_cli import doctor
from sweeper.export_cli import export
from sweeper.import_cli import import_
from sweeper.launch_cli import launch, resume
from sweeper.outcome import filtered, rows_of
from sweeper.plan_cli import plan
from sweeper.predict_cli import predict
from sweeper.printing import console, format_option, print_json, report_damage, results_option, tell
from sweeper.report_cli import report
from sweeper.results import read_store
from sweeper.serve_cli import serve
from sweeper.spec import Status
from sweeper.status_cli import status, stop
from sweeper.store_cli import store
from sweeper.submit_cli import submit
from sweeper.validate_cli import validate


@root("sweeper")
def cli() -> None:
    """Sweep fine-tuning strategies and their hyperparameters in parallel, and keep every measurement.

    \b
    sweeper launch --grid lora_ranks     run a sweep
    sweeper show                         its rows
    advisor fit && advisor recommend     what they advise
    """


cli.add_command(launch)
cli.add_command(resume)
cli.add_command(report)
cli.add_command(plan)
cli.add_command(status)
cli.add_command(stop)
cli.add_command(submit)
cli.add_command(adapters)
cli.add_command(predict)
cli.add_command(serve)
cli.add_command(data)
cli.add_command(doctor)
cli.add_command(export)
cli.add_command(init)
cli.add_command(import_)
cli.add_command(store)
cli.add_command(validate)


@cli.command()
@format_option
def ls(form: str) -> None:
    """List grids, strategies, models and tasks.

    \b
    sweeper ls
    sweeper ls --format json
    """
    import dataclasses

    from sweeper import models, strategies, tasks
    from sweeper.grid import load_grid, shipped_grids
    from sweeper.registry import ORIGINS
    from sweeper.tasks import TASKS

    grids = [load_grid(name) for name in shipped_grids()]
    content: dict[str, dict[str, Any]] = {
        "grids": {g.name: {"question": g.question, "trials": len(g.trials)} for g in grids},
        "strategies": {
            name: {
                "summary": _first_line(s.__doc__),
                "hparams": dataclasses.asdict(s()),  # type: ignore[call-overload]
                "space": {key: list(values) for key, values in s.space.items()},
            }
            for name, s in strategies.STRATEGIES.items()
        }
        | {f"{name}:METHOD": {"summary": _line(make)} for name, make in strategies.FAMILIES.items()},
        "models": {name: {"summary": _line(build)} for name, build in models.MODELS.items()}
        | {f"{name}:NAME": {"summary": _line(make)} for name, make in models.FAMILIES.items()},
        "tasks": {t.name: {"summary": t.summary, "metric": t.metric, "n_train": t.n_train} for t in TASKS.values()}
        | {f"{name}:NAME": {"summary": _line(make)} for name, make in tasks.FAMILIES.items()},
    }
    for (group, name), origin in ORIGINS.items():
        content[group.removeprefix("sweeper.")][name]["from"] = origin
    if form == "json":
        print_json(content)
        return
    for kind, entries in content.items():
        click.echo(f"{kind}:")
        for name, facts in entries.items():
            text = facts.pop("question", None) or facts.pop("summary")
            facts.pop("space", None)
            origin = facts.pop("from", None)
            rest = [f"{k}={v}" for k, v in {**facts.pop("hparams", {}), **facts}.items()]
            rest = [f"from {origin}", *rest] if origin else rest
            extra = f"  [{', '.join(rest)}]" if rest else ""
            click.echo(f"  {name:20} {text}{extra}")


def _line(builder: Any) -> str:
    """Return what a function returns, as the first line of its docstring has it."""
    text = _first_line(builder.__doc__).removeprefix("Return ")
    return text[:1].upper() + text[1:]


def _first_line(text: str | None) -> str:
    return text.strip().splitlines()[0] if text else ""


@cli.command()
@click.argument("trial_id", required=False, shell_complete=stored("trial_id"))
@results_option
@only_grid
@only("strategy")
@only("model")
@only("task")
@click.option("--seed", type=int, help="Only this seed.")
@click.option("--status", type=click.Choice([s.value for s in Status]), help="Only trials that ended so.")
@click.option(
    "--summary", is_flag=True, help="Mean and spread over seeds instead of rows, learning rate chosen on valid."
)
@click.option(
    "--per-class", is_flag=True, help="Precision, recall, F1 and confusions by class, one trial of each strategy."
)
@click.option("--samples", is_flag=True, help="What language models wrote, one trial of each strategy.")
@format_option
def show(
    trial_id: str | None,
    folder: str,
    grid_name: str | None,
    summary: bool,
    per_class: bool,
    samples: bool,
    form: str,
    **filters: Any,
) -> None:
    """Show rows of the store; with TRIAL_ID, or the beginning of one, that row whole.

    \b
    sweeper show --strategy lora --seed 0
    sweeper show --summary --grid lora_ranks
    sweeper show --per-class --task digits_weak_class
    sweeper show 3f9a
    """
    from sweeper.summary import summarise
    from sweeper.table import as_json, print_rows, print_summary

    contents = read_store(folder)
    report_damage(contents, console(stderr=True))
    if summary + per_class + samples > 1:
        raise click.UsageError("--summary, --per-class and --samples are different tables: ask for one")
    if trial_id is not None:
        if (
            summary
            or per_class
            or samples
            or grid_name is not None
            or any(value is not None for value in filters.values())
        ):
            raise click.UsageError(f"TRIAL_ID names one row, {trial_id!r}: leave the filters out")
        found = [result for result in contents.results if result.trial_id.startswith(trial_id)]
        if len(found) != 1:
            what = "no trial whose id begins" if not found else f"{len(found)} trials whose ids begin"
            raise ValueError(f"{what} with {trial_id!r} in {folder!r}. `sweeper show` lists them")
        print_json(found[0].to_dict())
        return
    rows = filtered(contents.results, filters)
    if grid_name is not None:
        from sweeper.grid import load_grid

        rows = rows_of(rows, load_grid(grid_name).trials)
    rows.sort(key=lambda row: (row.spec.task, row.spec.model, row.spec.n_train, row.spec.strategy, str(row.spec)))
    if per_class or samples:
        from sweeper import per_class as classes
        from sweeper import samples as texts

        trials = classes.typical_trials(summarise(rows))
        if form == "json":
            print_json((texts if samples else classes).as_json(trials))
        else:
            (texts.print_samples if samples else classes.print_per_class)(trials, console())
        if not trials:
            tell(f"no complete trial among {len(rows)} in {folder}")
    elif summary:
        lines = summarise(rows)
        print_json(as_json(lines)) if form == "json" else print_summary(lines, console())
        if not lines:
            tell(f"no complete trial among {len(rows)} in {folder}")
    elif form == "json":
        print_json([row.to_dict() for row in rows])
    else:
        print_rows(rows, console())
        tell(f"{len(rows)} of {len(contents.results)} trials in {folder}")


def main() -> None:
    """Run the command and turn errors into one line and an exit code."""
    run(cli, "sweeper")
