"""Live progress of a sweep: a bar in a terminal, a plain line now and then in a pipe or in CI."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sweeper.printing import time_in_words
from sweeper.spec import Status, TrialResult

LINE_EVERY_SECONDS = 10.0
SILENT_SECONDS = 2.0


@dataclass
class SweepProgress:
    """Counts the trials of one launch and shows them on stderr.

    Args:
        total: Trials to run.
        console: Where to show them; a bar if that is a terminal.
    """

    total: int
    console: Console
    clock: Callable[[], float] = time.monotonic
    running: int = 0
    counts: dict[Status, int] = field(default_factory=dict)
    best: TrialResult | None = None
    closed: bool = False
    printed: int = 0

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.last_line = self.started
        self.bar: Progress | None = None
        if self.console.is_terminal:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task(self.text(), total=self.total)
            self.bar.start()

    @property
    def done(self) -> int:
        """Trials that have a row."""
        return sum(self.counts.values())

    def start(self, trials: int) -> None:
        """Count trials as running."""
        self.running += trials
        self._show()

    def finish(self, results: list[TrialResult]) -> None:
        """Count rows, and remember the best on valid."""
        self.running -= len(results)
        for result in results:
            self.counts[result.status] = self.counts.get(result.status, 0) + 1
            score = result.metrics.get("valid_score")
            if score is not None and (self.best is None or score > self.best.metrics["valid_score"]):
                self.best = result
        self._show()

    def close(self) -> None:
        """Take the bar away; in a pipe, print the last count."""
        if self.closed:
            return
        self.closed = True
        if self.bar is not None:
            self.bar.stop()
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
            parts.append(f"{left:.0f} s left" if left < 90 else f"{left / 60:.0f} min left")
        return " | ".join(parts)

    def seconds_left(self) -> float | None:
        """Return the expected rest of the sweep; ``None`` while nothing is known."""
        if not self.done or self.done == self.total:
            return None
        elapsed = self.clock() - self.started
        return elapsed / self.done * (self.total - self.done)

    def _show(self) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, description=self.text())
        elif self.done and self.clock() - self.last_line >= LINE_EVERY_SECONDS:
            self._print()

    def _print(self) -> None:
        """Print the count, unless it was the last thing printed."""
        self.last_line = self.clock()
        if self.printed != self.done:
            self.printed = self.done
            self.console.print(self.text(), markup=False, highlight=False, soft_wrap=True)


class Bar:
    """How far a longer piece of work is, on stderr: nothing in the first two seconds, then a bar, or lines in a pipe.

    Args:
        what: What is counted, such as "packs".
        console: Where to show it.
    """

    def __init__(self, what: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self.console, self.clock = what, console, clock
        self.started = self.last_line = clock()
        self.bar: Progress | None = None

    def __enter__(self) -> Bar:
        return self

    def tell(self, done: int, total: int) -> None:
        """Show how many are done, of how many."""
        spent = self.clock() - self.started
        left = f" | {time_in_words(spent / done * (total - done))} left" if 0 < done < total else ""
        text = f"{done}/{total} {self.what}{left}"
        if spent < SILENT_SECONDS:
            return
        if self.console.is_terminal:
            if self.bar is None:
                columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
                self.bar = Progress(*columns, console=self.console, transient=True)
                self.task = self.bar.add_task(text, total=total)
                self.bar.start()
            self.bar.update(self.task, completed=done, total=total, description=text)
        elif self.clock() - self.last_line >= LINE_EVERY_SECONDS:
            self.last_line = self.clock()
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()
