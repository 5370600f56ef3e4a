"""Completion in shells: the script that a shell asks for, the values that options take, and the options that leave
some rows of a store.

Quick, for it runs at every press of the key: no model, no strategy and no Ray is loaded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class

from sweeper.results import read_store

GRIDS = Path(__file__).parent / "grids"
SHELLS = ("bash", "zsh", "fish")
MOST_IDS = 200

Command = TypeVar("Command", bound=Callable[..., Any])
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def completion_command(program: str) -> click.Command:
    """Return the command that prints a program's script for a shell."""

    @click.command(
        "completion",
        help=f"""Print the script that has a SHELL complete commands, options, names and trial ids.

        \b
        eval "$({program} completion bash)"      # in ~/.bashrc
        eval "$({program} completion zsh)"       # in ~/.zshrc
        {program} completion fish > ~/.config/fish/completions/{program}.fish
        """,
    )
    @click.argument("shell", type=click.Choice(SHELLS))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        script = get_completion_class(shell)
        assert script is not None
        click.echo(script(context.find_root().command, {}, program, f"_{program}_COMPLETE".upper()).source())

    return completion


def names(kind: str) -> Complete:
    """Return what completes the name of a grid, strategy, model or task: shipped ones and those of plugins."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem[str]]:
        found = dict(shipped_grids() if kind == "grid" else _of_grids(kind))
        items = [CompletionItem(name, help=text) for name, text in sorted(found.items()) if name.startswith(typed)]
        return items or [CompletionItem(typed, type="file")]

    return complete


def shipped_grids() -> Iterator[tuple[str, str]]:
    """Yield the names of grids, and their questions."""
    for file in GRIDS.glob("*.toml"):
        yield file.stem, str(tomllib.loads(file.read_text(encoding="utf-8"))["question"])


def _of_grids(kind: str) -> Iterator[tuple[str, str]]:
    """Yield the names that grids and plugins name: the tables themselves would load torch."""
    key = {"strategy": "strategies", "model": "models", "task": "tasks"}[kind]
    for file in GRIDS.glob("*.toml"):
        content = tomllib.loads(file.read_text(encoding="utf-8"))[key]
        for entry in content if isinstance(content, list) else [content]:
            yield (entry["name"] if isinstance(entry, dict) else entry), ""
    for plugin in entry_points(group=f"sweeper.{key}"):
        yield plugin.name, ""


def stored(kind: str) -> Complete:
    """Return what completes the beginning of a trial id, or a name, from the store that the command reads."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem[str]]:
        folder = context.params.get("folder") or context.params.get("results") or "results"
        try:
            rows = read_store(folder).results
        except (ValueError, OSError):
            return []
        texts: dict[str, str] = {}
        for row in rows:
            spec: Any = row.spec
            if kind == "trial_id":
                texts[row.trial_id] = f"{spec.strategy} on {spec.model}, {spec.task}, seed {spec.seed}"
            else:
                texts[str(getattr(spec, kind))] = ""
        fitting = sorted(name for name in texts if name.startswith(typed))
        return [CompletionItem(name, help=texts[name] or None) for name in fitting[:MOST_IDS]]

    return complete


only_grid = click.option(
    "--grid",
    "grid_name",
    metavar="NAME|FILE.toml",
    help="Only the trials of this grid.",
    shell_complete=names("grid"),
)


def only(kind: str) -> Callable[[Command], Command]:
    """Return the option that leaves of a store the rows of one strategy, model or task."""
    return click.option(f"--{kind}", metavar="NAME", help=f"Only this {kind}.", shell_complete=stored(kind))
