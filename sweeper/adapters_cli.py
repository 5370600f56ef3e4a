"""The commands ``sweeper adapters``: parse, call one function, print."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweeper.command import Group
from sweeper.completion import names, stored
from sweeper.printing import format_option, print_json, tell, warn
from sweeper.results import read_store
from sweeper.spec import Status, TrainArgs, TrialSpec

if TYPE_CHECKING:
    from sweeper.models.base import LoadedModel
    from sweeper.tasks import TaskData

# Beside other folders the store's is called by its option.
results_option = click.option(
    "--results", "results", default="results", show_default=True, metavar="DIR", help="The results store."
)
model_option = click.option(
    "--model",
    "model_name",
    metavar="NAME",
    help="Base model of a folder that stock peft wrote, such as hf:NAME.",
    shell_complete=names("model"),
)
task_option = click.option(
    "--task",
    "task_name",
    metavar="NAME",
    help="Task of a folder that stock peft wrote.",
    shell_complete=names("task"),
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an adapter that is already there.")


@click.group(cls=Group)
def adapters() -> None:
    """Adapter files: what a trial trained, as safetensors that stock peft and transformers read too.

    \b
    sweeper adapters save 3f9a           train that trial again, and keep it
    sweeper adapters ls                  what is kept
    sweeper adapters load results/adapters/3f9a0c51d2e4b678
    """


@adapters.command()
@click.argument("trial_id", shell_complete=stored("trial_id"))
@results_option
@click.option("--to", "target", metavar="DIR", help="Where to. [default: RESULTS/adapters/TRIAL_ID]")
@overwrite_option
@format_option
def save(trial_id: str, results: str, target: str | None, overwrite: bool, form: str) -> None:
    """Train a stored trial again and save what it learned; TRIAL_ID may be the beginning of one.

    A trial is deterministic: on the same machine the saved weights have the stored score.

    \b
    sweeper adapters save 3f9a
    sweeper adapters save 3f9a --to my_adapter --overwrite
    """
    found = [row for row in read_store(results).results if row.trial_id.startswith(trial_id)]
    if len(found) != 1:
        what = "no trial whose id begins" if not found else f"{len(found)} trials whose ids begin"
        raise ValueError(f"{what} with {trial_id!r} in {results!r}. `sweeper show` lists them")
    row = found[0]
    if row.status is not Status.COMPLETE:
        raise ValueError(
            f"trial {row.trial_id} is {row.status.value}: there is nothing to save ({row.error}). `sweeper show "
            "--status complete` lists others"
        )
    folder = Path(target) if target else Path(results) / "adapters" / row.trial_id
    if folder.exists() and not overwrite:
        raise ValueError(f"{folder} is already there: name another folder, or give --overwrite")
    from sweeper.adapters import Keeper
    from sweeper.trial import run_pack

    tell(f"Training {row.trial_id} again: {row.spec.strategy} on {row.spec.model}, {row.spec.task} ...")
    keeper = Keeper(folder.parent, overwrite, folder.name)
    (again,) = run_pack([row.spec], {}, keeper)
    if keeper.refused:
        raise keeper.refused
    if again.status is not Status.COMPLETE:
        raise OSError(
            f"trial {row.trial_id} ended as {again.status.value} this time: {again.error}; `sweeper doctor` says "
            "what is scarce"
        )
    now, then = (one.metrics["test_score"] for one in (again, row))
    if form == "json":
        print_json({"folder": str(folder), "trial_id": row.trial_id, "test_score": now, "stored_test_score": then})
    else:
        click.echo(str(folder))
    tell(f"Saved. Test score {now:.4f}, stored {then:.4f}.")


@adapters.command(name="ls")
@click.argument("folder", required=False, metavar="[DIR]")
@results_option
@format_option
def list_(folder: str | None, results: str, form: str) -> None:
    """List the adapters in DIR, by default those of the results store; exit code 1 where one is damaged.

    \b
    sweeper adapters ls
    sweeper adapters ls downloads/adapters --format json
    """
    from sweeper.adapter_compare import listed

    root = Path(folder) if folder else Path(results) / "adapters"
    lines = listed(root)
    if form == "json":
        print_json([asdict(line) for line in lines])
    else:
        print_table(
            ("name", "strategy", "layout", "base", "task", "parameters", "bytes", "test"),
            [
                (
                    *(str(value or "-") for value in (line.name, line.strategy, line.layout, line.base, line.task)),
                    f"{line.parameters:,}",
                    f"{line.bytes:,}",
                    "-" if line.test_score is None else f"{line.test_score:.3f}",
                )
                for line in lines
                if not line.damage
            ],
        )
    damaged = [line for line in lines if line.damage]
    for line in damaged:
        warn(f"Damaged: {line.damage}")
    if damaged:
        sys.exit(1)


@adapters.command()
@click.argument("folder", metavar="DIR")
@model_option
@task_option
@format_option
def load(folder: str, model_name: str | None, task_name: str | None, form: str) -> None:
    """Put the adapter in DIR on a fresh base and score it on the test rows of its task.

    \b
    sweeper adapters load results/adapters/3f9a0c51d2e4b678
    sweeper adapters load from_peft --model minilm --task film_reviews
    """
    from sweeper.adapters import load_adapter, opened
    from sweeper.trial import score_on_test

    spec, base, data = _base(Path(folder), model_name, task_name)
    before = score_on_test(spec, base, data) if not base.head_is_fresh else None
    model = load_adapter(Path(folder), base, spec.model)
    with opened(Path(folder)) as found:
        shapes = found.file.shapes
    outcome = {
        "folder": folder,
        "model": spec.model,
        "task": spec.task,
        "tensors": len(shapes),
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "base_params": base.loaded_params,
        "test_rows": len(data.splits["test"]),
        "test_score": score_on_test(spec, model, data),
        "untouched_test_score": before,
    }
    if form == "json":
        print_json(outcome)
        return
    click.echo(
        f"{outcome['parameters']:,} numbers in {outcome['tensors']} tensors, on {spec.model} with "
        f"{base.loaded_params:,} parameters"
    )
    without = "" if before is None else f", {before:.4f} without it"
    click.echo(f"test score on {outcome['test_rows']} rows of {spec.task}: {outcome['test_score']:.4f}{without}")


@adapters.command()
@click.argument("folder", metavar="DIR")
@click.argument("target", metavar="OUT")
@model_option
@task_option
@overwrite_option
@format_option
def merge(folder: str, target: str, model_name: str | None, task_name: str | None, overwrite: bool, form: str) -> None:
    """Write the adapter in DIR, merged into its base, to the folder OUT as a plain network.

    \b
    sweeper adapters merge results/adapters/3f9a0c51d2e4b678 merged
    """
    from sweeper.adapters import merge as merge_folder

    spec, base, _ = _base(Path(folder), model_name, task_name)
    merge_folder(Path(folder), base, Path(target), spec.model, overwrite)
    if form == "json":
        print_json({"folder": target})
    else:
        click.echo(target)


@adapters.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@format_option
def diff(a: str, b: str, form: str) -> None:
    """Show in what two adapters differ: settings, and each tensor's largest difference and cosine.

    \b
    sweeper adapters diff results/adapters/3f9a0c51d2e4b678 results/adapters/81d2f0aa35c9e417
    """
    from sweeper.adapter_compare import difference

    found = difference(Path(a), Path(b))
    if form == "json":
        print_json(found)
        return
    for key, (left, right) in found["config"].items():
        click.echo(f"{key}: {json.dumps(left)} -> {json.dumps(right)}")
    for which, folder in (("only_in_a", a), ("only_in_b", b)):
        for name in found[which]:
            click.echo(f"only in {folder}: {name}")
    for name, (left, right) in found["shapes"].items():
        click.echo(f"{name}: {left} -> {right}")
    rows = [
        (name, f"{one['max_abs_difference']:.3g}", "-" if one["cosine"] is None else f"{one['cosine']:.4f}")
        for name, one in found["tensors"].items()
    ]
    if rows:
        print_table(("tensor", "largest difference", "cosine"), rows, numbers_from=1)


def _base(folder: Path, model: str | None, task: str | None) -> tuple[TrialSpec, LoadedModel, TaskData]:
    """Return the trial that an adapter is from, or one that stands in for it, its base and its rows."""
    from sweeper.adapters import opened
    from sweeper.tasks import find_task
    from sweeper.trial import untrained

    with opened(folder) as found:
        spec = found.facts.trial if found.facts else None
    if spec is not None:
        if model is not None or task is not None:
            raise click.UsageError("--model and --task are for folders that do not name their trial")
    elif model is None or task is None:
        raise click.UsageError(f"{folder} does not name its trial: give --model and --task")
    else:
        spec = TrialSpec(model, task, find_task(task).n_train, "feature_extraction", {}, TrainArgs(), 0)
    try:
        find_task(spec.task)
    except ValueError:
        raise ValueError(
            f"{folder} is from a trial on {spec.task[:80]!r}, and there is no such task here: install the package it "
            "is from (`sweeper ls` shows tasks)"
        ) from None
    return spec, *untrained(spec, [spec.seed])


def print_table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], numbers_from: int = 5) -> None:
    """Print columns, those with numbers aligned to the right; what a terminal would act on is shown as "?"."""
    rows = [tuple("".join(c if c.isprintable() else "?" for c in cell) for cell in row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = [
            cell.ljust(width) if i < numbers_from else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
