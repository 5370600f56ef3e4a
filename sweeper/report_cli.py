"""The command ``sweeper report``: a store as one HTML file, and its figures as files."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from sweeper.completion import only, only_grid
from sweeper.outcome import filtered, rows_of
from sweeper.output import place_of_page, whole
from sweeper.printing import (
    console,
    format_option,
    print_json,
    report_damage,
    results_option,
    size_in_words,
    tell,
)
from sweeper.results import read_store


@click.command()
@results_option
@only_grid
@only("model")
@only("task")
@click.option(
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.",
)
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write each figure there too, as SVG and as PNG.",
)
@format_option
def report(
    folder: str,
    grid_name: str | None,
    model: str | None,
    task: str | None,
    output: Path,
    figures: Path | None,
    form: str,
) -> None:
    """Write one self-contained HTML file: which strategy, by how much, how sure, at what cost.

    It needs no network and no other file, and can be mailed.

    \b
    sweeper report
    sweeper report --grid lora_ranks --output lora_ranks.html
    sweeper report --results results/shipped --figures figures
    """
    from sweeper.progress import followed
    from sweeper.report import charts_of, report_html

    place_of_page(output)
    contents = read_store(folder)
    report_damage(contents, console(stderr=True))
    if not contents.results:
        raise ValueError(f"no trial in {folder!r}. `sweeper launch --grid smoke` makes some")
    rows, question = filtered(contents.results, {"model": model, "task": task}), ""
    if grid_name is not None:
        from sweeper.grid import load_grid

        grid = load_grid(grid_name)
        rows, question = rows_of(rows, grid.trials), grid.question
    if not rows:
        raise ValueError(
            f"no trial in {folder!r} is of this choice. `sweeper show --results {folder}` lists what there is"
        )
    options = {
        "--results": folder if folder != "results" else None,
        "--grid": grid_name,
        "--model": model,
        "--task": task,
    }
    command = shlex.join(["sweeper", "report", *(part for name, v in options.items() if v for part in (name, v))])
    text = report_html(
        rows,
        question,
        results=folder,
        command=command,
        stores=contents.stores,
        watch=lambda them: followed(them, "situations"),
    )
    with whole(output) as file:
        file.write_text(text, encoding="utf-8")
    size = len(text.encode())
    tell(f"{len(rows):,} trials in {output} ({size_in_words(size)})")
    written = 0
    if figures is not None:
        from sweeper.figure_files import named_charts, write_figures

        written = write_figures(followed(named_charts(charts_of(rows)), "figures"), figures)
        tell(f"{written} figures in {figures}")
    if form == "json":
        print_json({"file": str(output), "bytes": size, "trials": len(rows), "figures": written})
