"""Random argument lists for the two command lines, made from their own commands, options and types."""

from __future__ import annotations

import random
from collections.abc import Iterator

import click

from advisor.cli import cli as advisor_cli
from sweeper.cli import cli as sweeper_cli

PROGRAMS: dict[str, click.Group] = {"sweeper": sweeper_cli, "advisor": advisor_cli}

# What is there to be named, made by the test; and what nobody should type.
PLACES = (
    *("results", "results/store.json", "rows.csv", "pairs.jsonl", "grid.toml", "bad.toml", "empty", "thesis"),
    *("advisor.json", "torn", "adapter", "model", "priced", "bytes.csv", "long.csv", "."),
)
HOSTILE = (
    *(
        "",
        " ",
        "-",
        "--",
        "...",
        "~",
        "*",
        "%s%n",
        "${HOME}",
        "$(id)",
        "; rm -rf .",
        "'",
        '"',
        "\\",
        "|",
        "a\tb",
        "a\nb",
    ),
    *(
        "0",
        "-1",
        "1e400",
        "-0.0",
        "nan",
        "inf",
        "9" * 40,
        "1_000",
        "٣",
        "1.5",
        "0x10",
        "true",
        "null",
        "None",
        "[]",
        "{}",
    ),
    *(
        "ümläut",
        "日本語",
        "🦙",
        "\u202egnp.exe",
        "\x1b[31mred",
        "a\x00b",
        "\udcff\udcfe.csv",
        "x" * 300,
        "../nowhere/../here/nowhere",
    ),
    *("nowhere", "nowhere/at/all", "nowhere.toml", "nowhere.csv", "/proc/nothing/here", "grid.toml/below"),
    *(
        "hf:",
        ":",
        "peft:",
        "torchvision:",
        "peft:nothing",
        "torchvision:nothing",
        "data:nothing",
        "table:x",
        "s3:",
        "file:x",
    ),
    *(
        "7B",
        "40k",
        "16GB",
        "90s",
        "1h",
        "0s",
        "lora",
        "full",
        "mlp",
        "digits_shifted",
        "smoke",
        "l4",
        "task==x",
        "a=b",
        "=",
    ),
)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that is no group, and the words that name it."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from leaves(below, (*path, name))
    else:
        yield path, command


def value(parameter: click.Parameter, dice: random.Random, care: float) -> str:
    """Return what a user who takes care may give to a parameter: something of its type."""
    kind = parameter.type
    if dice.random() > care:
        return dice.choice(HOSTILE)
    if isinstance(kind, click.Choice):
        return str(dice.choice(list(kind.choices)))
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return str(dice.choice((1, 2, 3, 8, 100)))
    if parameter.name in ("budget", "time_limit"):
        return dice.choice(("1s", "10m"))
    if parameter.name in ("adapter", "adapters"):
        return dice.choice(("priced", "priced", "mine=priced", "adapter"))
    if parameter.name == "grid_name":
        return dice.choice(("grid.toml", "grid.toml", "smoke", "bad.toml"))
    if parameter.name == "inputs":
        return dice.choice(('{"age": 41, "colour": "red"}', '[41, "blue"]', '{"age": 41}', "[1e39, 0]"))
    return dice.choice((*PLACES, "lora", "mlp", "digits_shifted", "smoke", "7B", "24GB"))


def arguments(dice: random.Random) -> list[str]:
    """Return a command line, the program's name first."""
    program = dice.choice(list(PROGRAMS))
    path, command = dice.choice([*leaves(PROGRAMS[program])])
    care = dice.choice((0.5, 0.9, 1.0))  # most of what is wrong ends a command early: some must get far
    words = [program, *path]
    if dice.random() < 0.05:
        words[dice.randrange(1, len(words))] += dice.choice(("x", "", "\udcff", "\x00"))
    if dice.random() < 0.1:
        words.insert(1, dice.choice(("-q", "-v", "-q", "-v", "--verbos", "-qv", "-h", "--version", "--quiet=1")))
    rest: list[list[str]] = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            number = 1 if parameter.nargs == 1 else dice.choice((1, 1, 2, 3))
            number = number if dice.random() < care else dice.choice((0, 2))
            rest += [[value(parameter, dice, care)] for _ in range(number)]
        elif isinstance(parameter, click.Option) and dice.random() < (0.5 + care / 2 if parameter.required else 0.12):
            rest += _option(parameter, dice, care)
    if dice.random() < 0.05:
        rest.append([dice.choice(("--nonsense", "-Z", "--form", "--help", "extra", "--", "--results"))])
    dice.shuffle(rest)
    return [*words, *(word for words in rest for word in words)]


def _option(option: click.Option, dice: random.Random, care: float) -> Iterator[list[str]]:
    name = dice.choice([*option.opts, *option.secondary_opts])
    if dice.random() < 0.1 * (1 - care):
        name = name[:-1]
    for _ in range(dice.choice((1, 1, 1, 2)) if option.multiple else 1):
        if option.is_flag:
            yield [name]
        elif dice.random() < 0.3:
            yield [f"{name}={value(option, dice, care)}"]
        else:
            yield [name, value(option, dice, care)]
