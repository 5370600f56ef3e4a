"""The command ``sweeper predict``: parse, ask, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper.adapters_cli import print_table
from sweeper.printing import format_option, print_json

if TYPE_CHECKING:
    from sweeper.predict import Answer, Predictor

SHOWN = 60


@click.command()
@click.argument("adapter")
@click.argument("inputs", nargs=-1, metavar="[TEXT|IMAGE|JSON]...")
@click.option("--data", "data_name", metavar="DATA", help="Ask for each row of a file, or each image of a folder.")
@click.option("--text-column", metavar="NAME", help="For --data: the column of texts. [default: found out]")
@click.option("--encoding", metavar="NAME", help="For --data: of a text file. [default: utf-8]")
@format_option
def predict(
    adapter: str,
    inputs: tuple[str, ...],
    data_name: str | None,
    text_column: str | None,
    encoding: str | None,
    form: str,
) -> None:
    """Ask the fine-tuned model whose ADAPTER folder `sweeper adapters save` wrote.

    \b
    sweeper predict results/adapters/3f9a0c51d2e4b678 "a film that one sees twice"
    sweeper predict results/adapters/3f9a0c51d2e4b678 --data new_reviews.csv --format json
    sweeper predict results/adapters/77c1d0aa52e3f901 photo.png
    sweeper predict results/adapters/a09b4f1c6d7e8f23 '{"age": 41, "colour": "red"}'
    """
    if bool(inputs) == (data_name is not None):
        raise click.UsageError('give either inputs, such as "a text", or --data DATA')
    if data_name is None and (text_column or encoding):
        raise click.UsageError("--text-column and --encoding are for --data DATA")
    from sweeper.predict import load

    predictor = load(adapter)
    modality = predictor.signature.modality
    if data_name is None:
        rows: Sequence[Any] = inputs
        shown: Sequence[Any] = inputs
        if modality == "image":
            rows = [Path(name) for name in inputs]
        elif modality == "tabular":
            rows = [_json(text) for text in inputs]
    else:
        rows, shown = _read(predictor, data_name, text_column, encoding)
    answers = predictor.predict(rows)
    if form == "json":
        print_json({"adapter": adapter, "work": predictor.signature.work, "predictions": answers})
    else:
        _print(predictor.signature.work, answers, shown)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f'a row of a table is JSON here, such as {{"age": 41}}, got {text[:40]!r}') from None


def _print(work: str, answers: Sequence[Answer], shown: Sequence[Any]) -> None:
    beginnings = [" ".join(str(value).split())[:SHOWN] for value in shown]
    pairs = list(zip(answers, beginnings, strict=True))
    if work == "classification":
        cells = [(one["label"], f"{one['score']:.4f}", of) for one, of in pairs]
        print_table(("label", "score", "input"), cells, numbers_from=3)
    elif work == "regression":
        print_table(("value", "input"), [(f"{one['value']:.6g}", of) for one, of in pairs], numbers_from=2)
    elif work == "generation":
        print_table(("answer", "input"), [(one["text"], of) for one, of in pairs], numbers_from=2)
    else:
        told = [word for one in answers for word in (*one["words"], None)][:-1]  # between sentences a blank line
        words = [(w["word"], w["label"], f"{w['score']:.4f}") if w else ("", "", "") for w in told]
        print_table(("word", "label", "score"), words, numbers_from=3)


def _read(
    predictor: Predictor, data: str, text_column: str | None, encoding: str | None
) -> tuple[list[Any], list[Any]]:
    """Return the inputs in data, and what is shown of each."""
    from sweeper.suggest import no_such
    from sweeper.tasks.columns import PROMPTS, TEXTS, WORDS
    from sweeper.tasks.files import read_table
    from sweeper.tasks.pictures import SUFFIXES

    signature, path = predictor.signature, Path(data)
    if signature.modality == "image" and (path.is_dir() or path.suffix.lower() in SUFFIXES):
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"there are no images in {data!r}: name a folder that has some, such as .png or .jpg")
        return files, [str(file.relative_to(path)) if path.is_dir() else str(file) for file in files]
    table = read_table(data, encoding, one_column=True)
    columns = table.columns
    if signature.modality == "tabular":
        names = [*signature.features.columns] if signature.features and signature.features.columns else [*columns]
        for name in names:
            if name not in columns:
                raise no_such("column", name, columns, f" in {data}, which this model reads")
        kept = [columns[name] for name in names]
        # Numbers of tables without types are texts, which the model reads too.
        return [list(row) for row in zip(*kept, strict=True)], [f"row {at}" for at in table.at]
    if text_column is not None and text_column not in columns:
        raise no_such("column", text_column, columns, f" in {data}")
    named = [name for name in columns if name.lower() in TEXTS | WORDS | PROMPTS]
    found = [text_column] if text_column else named if len(named) == 1 else list(columns)
    if len(found) != 1:
        raise ValueError(f"{data}: which of {', '.join(map(repr, found[:12]))} holds the texts? --text-column NAME")
    chosen = columns[found[0]]
    if signature.modality == "image":
        chosen = [getattr(picture, "content", None) for picture in chosen]
        return chosen, [f"row {at}" for at in table.at]
    return chosen, chosen
