"""Flip bits of a small store, one at a time or a few, and see that no row is read that was never written.

``python -m tests.faults.flips --flips 100000 --seed 0``
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import click

from sweeper.results import ResultsStore
from tests import small


@click.command()
@click.option("--flips", default=100_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(flips: int, seed: int) -> None:
    """Flip, read, put back."""
    rng, noticed = Random(seed), 0
    with tempfile.TemporaryDirectory() as name:
        store = ResultsStore(Path(name), create=True)
        store.append([small.row(seed=number) for number in range(3)])
        store.close()
        (file,) = Path(name).glob("*.jsonl")
        whole, rows = file.read_bytes(), store.read().results
        for _ in range(flips):
            flipped = bytearray(whole)
            for _ in range(rng.choice((1, 1, 2, 3))):
                flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            file.write_bytes(flipped)
            contents = store.read()
            if any(row not in rows for row in contents.results):
                raise SystemExit("BROKEN: a row was read that was never written")
            if len(contents.results) < len(rows) and not contents.damage:
                raise SystemExit("BROKEN: a row is missing, and nobody said so")
            noticed += bool(contents.damage)
    click.echo(f"{flips:,} flips: {noticed:,} noticed, {flips - noticed:,} without effect, 0 silently wrong")


if __name__ == "__main__":
    main()
