"""Files of strangers, each read once: how long it takes to refuse them, and how much memory.

``python -m tests.faults.hostile`` counts the kinds and says the worst of each sort. That each is refused in one line
is tested beside what reads them: here, `tests/sweeper/test_adapters.py` and `tests/sweeper/test_broken_data.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

GRID = """question = "?"
models = ["mlp"]
tasks = ["digits_shifted"]
[[strategies]]
name = "lora"
rank = 4
"""
LONG = [*range(1, 40_000)]
Edit = Callable[[Path], None]


def text(content: str | bytes) -> Edit:
    return lambda file: file.write_bytes(content.encode() if isinstance(content, str) else content) and None


def endless(file: Path) -> None:
    with file.open("wb") as out:
        out.truncate(2**33)  # sparse


GRIDS: dict[str, tuple[Edit, str]] = {
    "a billion trials": (text(f"{GRID}[train]\nlr = {LONG}\nsteps = {LONG}\n"), "more than 100,000 trials"),
    "a range without end": (text(GRID.replace("rank = 4", "rank = {low = 1, high = 9, points = 99999999}")), "points"),
    "a number beyond all measure": (text(GRID.replace("rank = 4", f"rank = 1{'0' * 5000}")), "rank|digits|number"),
    "NaN": (text(GRID + "[train]\nlr = nan\n"), "lr"),
    "deep": (text(GRID + f"a = {'[' * 50_000}"), "line|nested|deep|recursion"),
    "no text": (text(b"\xff\xfe\x00\x01"), "utf-8|codec"),
    "endless": (endless, "larger|bytes"),
    "a name that moves the cursor": (text(GRID.replace('"?"', '"?"\nseeds = ["\\u001b[2J"]')), "seed"),
    "a strategy that is code": (text(GRID.replace('"lora"', '"__import__(\'os\')"')), "no strategy named"),
    "a task that climbs": (text(GRID.replace("digits_shifted", "own:../../etc/passwd")), "own|no task|not"),
    "a key of another kind": (text(GRID + "[[strategies.rank]]\n"), "Cannot|rank"),
    "a folder": (lambda file: file.mkdir(), "not a plain file"),
    "a pipe": (lambda file: os.mkfifo(file), "not a plain file"),
}  # fmt: skip

MARKER = {"format": "sweeper-results", "schema": 1}
STORES: dict[str, tuple[Edit, str]] = {
    "a newer store": (text(json.dumps({**MARKER, "schema": 99})), "reads up to"),
    "another's": (text(json.dumps({"format": "x", "schema": 1})), "not a results store"),
    "a number without end": (text('{"format": "sweeper-results", "schema": 1e999}'), "not a results store"),
    "deep": (text("[" * 100_000), "not a results store"),
    "no text": (text(b"\x80\x81"), "not a results store"),
    "empty": (text(""), "not a results store"),
    "endless": (endless, "not a results store"),
    "a folder": (lambda file: file.mkdir(), "not a results store"),
    "a pickle": (text(b"\x80\x04\x95\x0b\x00\x00\x00."), "not a results store"),
}
FITTED: dict[str, tuple[Edit, str]] = {
    "deep": (text("[" * 100_000), "not a fitted file"),
    "empty": (text(""), "not a fitted file"),
    "another's": (text('{"a": 1}'), "not a fitted file"),
    "no text": (text(b"\x80\x81"), "not a fitted file"),
    "endless": (endless, "not a fitted file"),
    "a folder": (lambda file: file.mkdir(), "not a fitted file"),
}


def read_grid(file: Path) -> None:
    from sweeper.grid import load_grid

    load_grid(str(file))


def read_store(file: Path) -> None:
    from sweeper.results import ResultsStore

    ResultsStore(file.parent)


def read_fitted(file: Path) -> None:
    from advisor.evidence import load

    load(file)


SORTS: dict[str, tuple[dict[str, tuple[Edit, str]], Callable[[Path], None], str]] = {
    "grid": (GRIDS, read_grid, "grid.toml"),
    "store": (STORES, read_store, "store.json"),
    "config": (FITTED, read_fitted, "advisor.json"),
}


def peak() -> int:
    """Return the most memory that this process has had since `forget`, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def measured(read: Callable[[], object]) -> tuple[float, int]:
    """Return the seconds and the bytes that a refusal takes; what reads well after all is an error."""
    Path("/proc/self/clear_refs").write_text("5")
    before, started = peak(), time.perf_counter()
    try:
        read()
    except (ValueError, OSError) as error:
        if "\n" in str(error):
            raise SystemExit(f"BROKEN: more than a line: {error}") from None
    else:
        raise SystemExit("BROKEN: it was taken")
    return time.perf_counter() - started, peak() - before


def kinds(folder: Path) -> dict[str, list[tuple[str, Callable[[], object]]]]:
    """Return, by sort, a name and what reads it, of every kind of file."""
    from sweeper.adapters import load_adapter
    from sweeper.own_data import own_data
    from sweeper.tasks.columns import Asked
    from tests import small
    from tests.sweeper import test_adapters, test_broken_data

    found: dict[str, list[tuple[str, Callable[[], object]]]] = {}
    for sort, (files, read, name) in SORTS.items():
        for kind, (make, _) in files.items():
            place = folder / sort / kind
            place.mkdir(parents=True)
            make(place / name)
            found.setdefault(sort, []).append((kind, lambda read=read, file=place / name: read(file)))  # type: ignore[misc]
    honest = test_adapters.saved(folder / "honest")
    base = small.model("mlp", [0])
    for kind, (edit, _) in test_adapters.HOSTILE.items():
        place = Path(shutil.copytree(honest, folder / "adapter" / kind / "adapter"))
        edit(place)
        found.setdefault("adapter", []).append((kind, lambda place=place: load_adapter(place, base)))  # type: ignore[misc]
    (folder / "data").mkdir()
    for name, make, options, _ in test_broken_data.BROKEN:
        if not options and name not in ("secret.csv", "hf:no/such-data-set"):  # the superuser reads everything
            make(folder / "data" / name)
            read_data = lambda name=name: own_data(Asked(str(folder / "data" / name)))  # noqa: E731
            found.setdefault("data", []).append((name, read_data))
    return found


@click.command()
def main() -> None:
    """Read every file and say what the worst took."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        os.environ["SWEEPER_DATA"] = str(Path(name) / "kept")
        for sort, own in kinds(Path(name)).items():
            measured(own[0][1])  # imports
            took = {kind: measured(read) for kind, read in own}
            slowest = max(took, key=lambda kind: took[kind][0])
            largest = max(took, key=lambda kind: took[kind][1])
            seconds, size = took[slowest][0], took[largest][1] / 1e6
            click.echo(
                f"{sort:8} {len(own):3} kinds refused in one line, at most {seconds:.2f} s ({slowest}) "
                f"and {size:.0f} MB ({largest})"
            )


if __name__ == "__main__":
    main()
