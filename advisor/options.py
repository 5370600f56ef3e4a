"""The options that say what is known of a situation, and what they come to: what the commands of `advisor` share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from advisor.evidence import PACKAGED
from advisor.first import OWN
from advisor.situation import COMPUTE_GPU_BYTES, DATA_SIZES, Situation, flag, parse_bytes, parse_count
from sweeper.completion import names
from sweeper.data_cli import DATA_OPTIONS, data_options
from sweeper.printing import tell

if TYPE_CHECKING:
    from advisor.own import OwnRows

Command = TypeVar("Command", bound=Callable[..., Any])
NOTHING_FEASIBLE = 4
"""The exit code where no candidate fits into memory."""

SITUATION = (
    click.option("--large-model/--small-model", "large", default=None, help="Over 1 B parameters or not."),
    click.option("--model-params", metavar="N", help="Parameters of the model: 7B, 350M, 40k."),
    click.option(
        "--data-size", type=click.Choice(list(DATA_SIZES)), help="Labelled rows: up to 2,000, up to 50,000, more."
    ),
    click.option("--n-train", type=click.IntRange(1), help="Labelled training rows."),
    click.option(
        "--compute", type=click.Choice(list(COMPUTE_GPU_BYTES)), help="GPU memory: below 24 GB, below 80 GB, more."
    ),
    click.option("--gpu-memory", metavar="SIZE", help="GPU memory: 16GB, 24GiB."),
    click.option(
        "--task-similar/--task-different",
        "similar",
        default=None,
        help="Like what the model was pretrained on, or not.",
    ),
    click.option("--modality", type=click.Choice(["text", "image", "tabular"]), help="What the rows are."),
    click.option(
        "--seq-len",
        type=click.IntRange(1, 10**7),
        help="Tokens of the longest texts, for the memory. [default: 512, or where own rows are cut]",
    ),
    click.option("--data", "data_name", metavar="DATA", help="Your own rows: what can be read off them is not asked."),
    click.option(
        "--model",
        metavar="NAME",
        help="For --data, as `sweeper launch` has it. [default: what suits them]",
        shell_complete=names("model"),
    ),
)
fitted_option = click.option(
    "--fitted",
    type=click.Path(),
    help="File that `advisor fit` wrote. [default: results/advisor.json, else the shipped one]",
)


def situation_options(command: Command) -> Command:
    """Give a command the options that say what is known, and how own data is to be understood."""
    command = data_options(command)
    for option in reversed(SITUATION):
        command = option(command)
    return command


def fitted_path(fitted: str | None) -> Path:
    """Return the fitted file to ask: the one named, else the user's own, else the shipped one."""
    return Path(fitted) if fitted is not None else OWN if OWN.exists() else PACKAGED


def command_line(situation: Situation, command: str = "recommend") -> str:
    """Return what one types to ask this; numbers stand for the answers that follow from them."""
    said = ["advisor", command]
    for question, name, option in (
        ("large", "model_params", "--model-params"),
        ("similar", None, None),
        ("data", "n_train", "--n-train"),
        ("compute", "gpu_memory", "--gpu-memory"),
    ):
        number = getattr(situation, name) if name else None
        if number is not None:
            said.append(f"{option} {number / 1e9:g}GB" if name == "gpu_memory" else f"{option} {number:.15g}")
        elif situation.answer(question) is not None:
            said.append(flag(question, situation.answer(question)))
    if situation.seq_len is not None:
        said.append(f"--seq-len {situation.seq_len}")
    return " ".join([*said, *([f"--modality {situation.modality}"] if situation.modality else [])])


@dataclass(frozen=True)
class Question:
    """What a user asks about.

    Attributes:
        own: Their rows, where they brought some.
    """

    situation: Situation
    own: OwnRows | None


def question_of(given: dict[str, Any]) -> Question:
    """Return what the options of `situation_options` come to; rows are read where there are some.

    What is said outright comes before what the rows say.

    Raises:
        ValueError: two of them contradict one another, or the data cannot be used.
        click.UsageError: an option for own data is given, and no data.
    """
    columns = {name: given[name] for name in DATA_OPTIONS}
    own = None
    if given["data_name"] is not None:
        from advisor.own import read  # torch, pandas: only where there are rows

        own = read(given["data_name"], given["model"], columns)
        tell(own.in_a_line())
    else:
        for name, value in {"model": given["model"], **columns}.items():
            if value is not None:
                raise click.UsageError(f"--{name.replace('_', '-')} is for --data DATA, your own rows")
    modality, params, n_train = given["modality"], given["model_params"], given["n_train"]
    if own is not None and modality not in (None, own.modality):
        raise ValueError(f"--modality {modality} contradicts {own.data}, whose rows are {own.modality}")
    params = parse_count(params) if params is not None else None
    situation = Situation(
        large=given["large"],
        similar=given["similar"],
        data=given["data_size"],
        compute=given["compute"],
        modality=modality or (own.modality if own else None),
        model_params=params or (own.model_params if own else None),
        n_train=n_train or (own.n_train if own else None),
        gpu_memory=parse_bytes(given["gpu_memory"]) if given["gpu_memory"] is not None else None,
        seq_len=given["seq_len"] or (own.seq_len if own else None),
    )
    return Question(situation, own)
