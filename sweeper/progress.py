"""Live progress: a bar and a table of the best so far in a terminal, a plain line now and then in a pipe or in CI."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from sweeper.leaders import Leaders
from sweeper.printing import console, time_in_words
from sweeper.spec import Status, TrialResult
from sweeper.standing import Reporter

T = TypeVar("T")
LINE_EVERY_SECONDS = 10.0
SILENT_SECONDS = 2.0
ROWS = 12
"""Lines of the table: with more it would not fit a small terminal, and a `Live` that does not fit flickers."""


@dataclass
class SweepProgress:
    """Counts the trials of one launch and shows them on stderr.

    Args:
        total: Trials to run.
        console: Where to show them; with a bar and a table if that is a terminal.
        reporter: Hears of everything, too, and is asked at each beat whether to stop.
    """

    total: int
    console: Console
    clock: Callable[[], float] = time.monotonic
    reporter: Reporter | None = None
    running: int = 0
    counts: dict[Status, int] = field(default_factory=dict)
    best: TrialResult | None = None
    closed: bool = False
    printed: int = 0

    def __post_init__(self) -> None:
        self.started = self.last_line = self.clock()
        self.began: float | None = None
        self.leaders = Leaders() if self.reporter is None else self.reporter.leaders
        self.live: Live | None = None
        if self.console.is_terminal:
            self.bar = _bar(self.console)
            self.task = self.bar.add_task(self.text(), total=self.total)
            self.live = Live(
                console=self.console, transient=True, refresh_per_second=2, get_renderable=self._renderable
            )
            self.live.start()

    @property
    def done(self) -> int:
        """Trials that have a row."""
        return sum(self.counts.values())

    def start(self, trials: int) -> None:
        """Count trials as running."""
        if self.began is None:
            self.began = self.clock()  # what was before, workers' start, does not come again
        self.running += trials
        self._tell([])

    def finish(self, results: list[TrialResult]) -> None:
        """Count rows, and remember the best on valid."""
        self.running -= len(results)
        for result in results:
            self.counts[result.status] = self.counts.get(result.status, 0) + 1
            score = result.metrics.get("valid_score")
            if score is not None and (self.best is None or score > self.best.metrics["valid_score"]):
                self.best = result
            if self.reporter is None:
                self.leaders.see(result)
        self._tell(results)

    def beat(self) -> None:
        """Hear that time passes.

        Raises:
            KeyboardInterrupt: the reporter says that the sweep is to stop.
        """
        if self.reporter is not None:
            self.reporter.beat()
        self._line()

    def close(self) -> None:
        """Take the bar away; in a pipe, print the last count."""
        if self.closed:
            return
        self.closed = True
        if self.live is not None:
            self.live.stop()
        elif self.done:
            self._print()

    def text(self) -> str:
        """Return the progress in one line."""
        failed = sum(count for status, count in self.counts.items() if not status.is_final)
        parts = [f"{self.done}/{self.total} trials", f"{max(self.running, 0)} running", f"{failed} failed"]
        parts += [
            f"{count} {status.value.replace('_', ' ')}"
            for status, count in self.counts.items()
            if status.is_final and status is not Status.COMPLETE
        ]
        if self.best is not None:
            spec = self.best.spec
            parts.append(f"best valid {self.best.metrics['valid_score']:.3f} ({spec.strategy}, lr {spec.train.lr:g})")
        left = self.seconds_left()
        if left is not None:
            parts.append(f"{time_in_words(left)} left")
        return " | ".join(parts)

    def seconds_left(self) -> float | None:
        """Return the expected rest of the sweep; ``None`` while nothing is known."""
        if not self.done or self.done == self.total:
            return None
        elapsed = self.clock() - (self.started if self.began is None else self.began)
        return elapsed / self.done * (self.total - self.done)

    def _tell(self, results: list[TrialResult]) -> None:
        if self.reporter is not None:
            self.reporter.hear(self.running, self.seconds_left(), results)
        self._line()

    def _line(self) -> None:
        if self.live is None and self.done and self.clock() - self.last_line >= LINE_EVERY_SECONDS:
            self._print()

    def _renderable(self) -> RenderableType:
        self.bar.update(self.task, completed=self.done, description=self.text())
        return Group(self.bar, *([best_table(self.leaders)] if self.leaders.rows else []))

    def _print(self) -> None:
        """Print the count, unless it was the last thing printed."""
        self.last_line = self.clock()
        if self.printed != self.done:
            self.printed = self.done
            self.console.print(self.text(), markup=False, highlight=False, soft_wrap=True)


def best_table(leaders: Leaders) -> Table:
    """Return the best setting of each strategy so far, as many as fit."""
    found = leaders.best()
    several = len({(one.model, one.task, one.n_train) for one in found}) > 1
    table = Table(box=None, pad_edge=False, title="Best on valid so far", title_justify="left")
    headings = (*(("on",) if several else ()), "strategy", "settings", "lr", "valid", "test", "trials")
    for place, heading in enumerate(headings):
        table.add_column(heading, no_wrap=True, justify="left" if place < len(headings) - 4 else "right")
    for one in found[:ROWS]:
        on = [Text(f"{one.model}, {one.task}, {one.n_train} rows")] if several else []
        numbers = (f"{one.lr:g}", f"{100 * one.valid:.1f}", f"{100 * one.test:.1f}", str(one.seeds))
        table.add_row(*on, Text(one.strategy), Text(one.settings), *numbers)
    if len(found) > ROWS:
        table.add_row(Text(f"and {len(found) - ROWS} more"))
    return table


class Bar:
    """How far a longer piece of work is, on stderr: nothing in the first two seconds, then a bar, or lines in a pipe.

    Args:
        what: What is counted, such as "packs".
        console: Where to show it.
    """

    def __init__(self, what: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self.console, self.clock = what, console, clock
        self.started = self.last_line = clock()
        self.first: tuple[float, int] | None = None
        self.bar: Progress | None = None

    def __enter__(self) -> Bar:
        return self

    def tell(self, done: int, total: int) -> None:
        """Show how many are done, of how many."""
        now = self.clock()
        since, before = self.first = self.first or (now, done)  # the first took what comes only once: imports, rows
        left = ""
        if before < done < total:
            left = f" | {time_in_words((now - since) / (done - before) * (total - done))} left"
        text = f"{done}/{total} {self.what}{left}"
        if now - self.started < SILENT_SECONDS:
            return
        if self.console.is_terminal:
            if self.bar is None:
                self.bar = _bar(self.console)
                self.task = self.bar.add_task(text, total=total)
                self.bar.start()
            self.bar.update(self.task, completed=done, total=total, description=text)
        elif self.clock() - self.last_line >= LINE_EVERY_SECONDS:
            self.last_line = self.clock()
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def followed(things: Sequence[T], what: str) -> Iterator[T]:
    """Yield things, and show on stderr how many of them are done with."""
    with Bar(what, console(stderr=True)) as bar:
        for number, thing in enumerate(things, 1):
            yield thing
            bar.tell(number, len(things))


def _bar(console: Console) -> Progress:
    # In a narrow terminal the text goes on below, and the bar stays.
    columns = (
        BarColumn(bar_width=24, table_column=Column(min_width=24)),
        TextColumn("{task.description}", markup=False, table_column=Column()),
    )
    return Progress(*columns, console=console, transient=True)
