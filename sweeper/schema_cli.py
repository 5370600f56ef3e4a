"""The commands ``sweeper schema`` and ``advisor schema``: what the JSON of each command looks like."""

from __future__ import annotations

from pathlib import Path

import click

from sweeper.suggest import no_such


def schema_command(folder: Path) -> click.Command:
    """Return the command that prints the JSON schemas (draft 2020-12) in a folder."""

    def names(*args: object) -> list[str]:
        typed = str(args[-1]) if args else ""
        return [file.stem for file in sorted(folder.glob("*.json")) if file.stem.startswith(typed)]

    @click.command("schema", help=f"""Print the JSON schema of what a command prints with --format json; without NAME,
        list their names.

        \b
        {folder.parent.name} schema
        {folder.parent.name} schema {names()[-1]}
        """)  # fmt: skip
    @click.argument("name", required=False, shell_complete=names)
    def schema(name: str | None) -> None:
        if name is None:
            for own in names():
                click.echo(own)
            return
        if name not in names():
            raise no_such("schema", name, names())
        click.echo((folder / f"{name}.json").read_text(encoding="utf-8"), nl=False)

    return schema
