"""What a launch is asked for, by the command or from Python, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.early_stop import RULES
from sweeper.loggers import split
from sweeper.objects import is_url
from sweeper.printing import seconds
from sweeper.search import OBJECTIVES, SEARCHES
from sweeper.suggest import no_such

if TYPE_CHECKING:
    from sweeper.grid import Grid

RECORDED = {"grid": "grid_name", "data": "data_name", "trial_timeout": "time_limit"}
"""Fields of `Request` -> what a store's records of launches, and the command, call them."""


@dataclass(frozen=True)
class Request:
    """What a launch is asked for: the options of the command. `launch` says what each means."""

    grid: str | Path | Mapping[str, Any] | Grid
    results: str
    strategies: tuple[str, ...]
    data: str | None
    text_column: str | None
    label_column: str | None
    group_column: str | None
    work: str | None
    encoding: str | None
    image_size: int | None
    models: tuple[str, ...]
    steps: int | None
    dry_run: bool
    cpus: int | None
    gpus_per_trial: float | None
    max_concurrent: int | None
    pack: int | None
    search: str
    settings: int | None
    objectives: tuple[str, ...]
    budget: float | None
    early_stop: str | None
    trial_timeout: float | None
    stop_after: float | None
    live: bool
    keep_weights: bool
    log: tuple[str, ...]
    address: str | None

    def __post_init__(self) -> None:
        """Find what is wrong with the request before anything runs or is written.

        Raises:
            ValueError: a value is out of range, or two options do not go together.
        """
        for name in ("steps", "cpus", "max_concurrent", "pack", "settings"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{flag(name)} must be a whole number of at least 1, got {value!r}")
        for name, known in (("search", ["grid", *SEARCHES]), ("early_stop", [None, *RULES])):
            if getattr(self, name) not in known:
                raise no_such(name.replace("_", " "), getattr(self, name), [one for one in known if one])
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise no_such("objective", name, OBJECTIVES)
        split(self.log)
        if (self.address or "").startswith("ray://"):
            raise ValueError(
                f"--address {self.address} is Ray Client's, with which the store would be written on the cluster's "
                "head: `sweeper submit --address http://HEAD:8265` runs the same there, or name the head's own port, "
                "HEAD:6379"
            )
        if self.address is not None and self.cpus is not None:
            raise ValueError("--cpus is for a local Ray; a cluster at --address has its own")
        share = self.gpus_per_trial
        if share is not None and not (0 <= share <= 1 or (share > 0 and float(share).is_integer())):
            raise ValueError(f"--gpus-per-trial must be a share of one GPU or a whole number, got {share:g}")
        if self.settings is not None and not (self.search in SEARCHES and SEARCHES[self.search].chooses):
            choosing = ", ".join(name for name, entry in SEARCHES.items() if entry.chooses)
            raise ValueError(f"--settings is for a search that chooses ({choosing}), and --search is {self.search}")
        if self.keep_weights and is_url(self.results):
            raise ValueError(f"--keep-weights needs a folder, and {self.results} is object storage")
        if self.objectives and self.search == "grid":
            raise ValueError("--objective is for a search, and --search grid runs every trial")

    def record(self) -> dict[str, Any]:
        """Return what decides what runs, under the names that `sweeper resume` gives to the command.

        A grid that is in no file is named <NAME>.
        """
        kept = {name: getattr(self, name) for name in RECORDED_FIELDS}
        if not isinstance(self.grid, str):
            kept["grid"] = str(self.grid) if isinstance(self.grid, Path) else f"<{name_of(self.grid)}>"
        return {RECORDED.get(name, name): value for name, value in kept.items()}


ARGUMENTS = {"strategy": "strategies", "model": "models", "objective": "objectives"}
"""Options of the command that `launch` calls otherwise."""
RECORDED_FIELDS = [field.name for field in fields(Request) if field.name != "results"]


def as_request(options: Mapping[str, Any]) -> Request:
    """Return the request that options make, a single name for a list of one, times in seconds.

    Raises:
        ValueError: something in them is wrong.
    """
    asked = {field.name: options[field.name] for field in fields(Request)}
    for name in ("strategies", "models", "objectives", "log"):
        asked[name] = (asked[name],) if isinstance(asked[name], str) else tuple(asked[name])
    for name in ("budget", "trial_timeout", "stop_after"):
        asked[name] = None if asked[name] is None else seconds(asked[name])
    for name in ("results", "data"):
        asked[name] = None if asked[name] is None else str(asked[name])
    return Request(**asked)


def name_of(grid: str | Path | Mapping[str, Any] | Grid) -> str:
    """Return what a grid is called, by the user."""
    if isinstance(grid, Mapping):
        return str(grid.get("name", "grid"))
    return str(grid) if isinstance(grid, str | Path) else grid.name


def flag(name: str) -> str:
    """Return the command's option of a field."""
    return f"--{name.replace('_', '-')}"
