"""The command ``sweeper serve``: parse, load, listen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper.listen import check_packages, listen_options, open_door
from sweeper.listen import serve as answer

if TYPE_CHECKING:
    from sweeper.predict import Predictor


@click.command()
@click.argument("adapters", nargs=-1, required=True, metavar="[NAME=]ADAPTER...")
@listen_options
def serve(adapters: tuple[str, ...], **where: Any) -> None:
    """Answer over HTTP from fine-tuned models: ADAPTER is a folder that `sweeper adapters save` wrote.

    \b
    sweeper serve results/adapters/3f9a0c51d2e4b678
    sweeper serve mood=results/adapters/3f9a0c51d2e4b678 topic=results/adapters/77c1d0aa52e3f901 --port 0

    Adapters on one base share it in memory. POST /predict answers, GET /adapters lists, GET /openapi.json is the
    schema. Without other options it answers on this machine alone, and to those who know the token.
    """
    check_packages("sweeper serve")
    folders = _named(adapters)
    door = open_door(**where)
    from sweeper.predict import load_all
    from sweeper.service import service

    predictors = load_all(folders)
    app = door.guarded(service(predictors, door.token is not None))
    click.echo(f"Serving {', '.join(folders)} on {door.address}; Ctrl-C ends it. Try:", err=True)
    click.echo(f"  {door.curl('/predict', json.dumps(_example(predictors)))}", err=True)
    answer(app, door)


def _named(adapters: tuple[str, ...]) -> dict[str, Path]:
    """Return folders by name, by default their own."""
    folders: dict[str, Path] = {}
    for given in adapters:
        name, equals, folder = given.partition("=")
        if not equals or Path(given).is_dir():
            name, folder = Path(given).resolve().name, given
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", name):
            raise ValueError(f"{name!r} is no name for an adapter: letters, digits and ._- ; NAME={folder} gives one")
        if name in folders:
            raise ValueError(f"two adapters are named {name!r}: NAME={folder} gives another name")
        folders[name] = Path(folder)
    return folders


def _example(predictors: dict[str, Predictor]) -> dict[str, Any]:
    """Return a question that the first adapter can answer."""
    name, first = next(iter(predictors.items()))
    inputs: Any = "a text"
    if first.signature.modality == "image":
        inputs = "BASE64 OF AN IMAGE"
    elif first.signature.modality == "tabular":
        columns = first.signature.features.columns if first.signature.features else {}
        inputs = {column: texts[0] if texts else 1.0 for column, texts in columns.items()}
        inputs = inputs or [[0.0] * first.signature.input_shape[0]]
    return {"inputs": inputs, **({"adapter": name} if len(predictors) > 1 else {})}
