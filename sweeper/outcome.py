"""What came of a launch: its rows, and what they say, as frames, tables and the next thing to type."""

from __future__ import annotations

import html
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.results import ResultsStore, to_frame
from sweeper.spec import Status, TrialResult, TrialSpec
from sweeper.summary import SIMILAR_FROM, Line, similarity, summarise, transfer

if TYPE_CHECKING:
    import pandas as pd

    from sweeper.grid import Grid
    from sweeper.trial import LeftOut


@dataclass(frozen=True, repr=False)
class Outcome:
    """What came of a launch.

    Attributes:
        grid: Its trials are those that make sense here.
        store: Where their rows are.
        rows: The grid's rows in the store, whenever they were measured.
        left_out: What of the grid makes no sense, or needs what is not installed, and why.
        ran: How many trials ended how in this launch.
        done: The ids of those that need not run.
    """

    grid: Grid
    store: ResultsStore
    rows: Sequence[TrialResult]
    left_out: Sequence[LeftOut] = ()
    ran: Mapping[Status, int] = field(default_factory=dict)
    done: frozenset[str] = frozenset()

    @cached_property
    def lines(self) -> list[Line]:
        """The complete trials by strategy and settings, learning rate chosen on valid."""
        return summarise(self.rows)

    @property
    def statuses(self) -> dict[str, int]:
        """How many of the grid's rows have which status."""
        return dict(Counter(row.status.value for row in self.rows))

    @property
    def frame(self) -> pd.DataFrame:
        """The grid's rows, with the columns of `sweeper.load_results`."""
        return to_frame(self.rows)

    def summary(self) -> pd.DataFrame:
        """Return one row for each strategy and its settings, the best on valid first.

        Metrics are means over seeds, ``NAME_std`` is their standard deviation (missing for a single seed).
        """
        import pandas as pd

        from sweeper.table import as_json, named

        records = []
        for line in as_json(self.lines):
            siblings = [one.hparams for one in self.lines if one.strategy == line["strategy"]]
            facts = {name: line[name] for name in ("model", "task", "n_train", "strategy")}
            train = {name: line["train"][name] for name in ("lr", "steps")}
            seeds = {"seeds": len(line["trial_ids"])}
            means = {name: spread["mean"] for name, spread in line["metrics"].items()}
            spreads = {f"{name}_std": spread["std"] for name, spread in line["metrics"].items()}
            both = {key: values[key] for name in means for key, values in ((name, means), (f"{name}_std", spreads))}
            records.append({**facts, "settings": named(line["hparams"], siblings), **train, **seeds, **both})
        return pd.DataFrame(records)

    @property
    def best(self) -> TrialResult | None:
        """The trial to use: the best on valid, of the strategy and settings that are, in the first situation."""
        here = [line for line in self.lines if line.situation == self.lines[0].situation]
        if not here:
            return None
        line = max(here, key=lambda one: one.mean("valid_score"))
        return max(line.trials, key=lambda trial: trial.metrics["valid_score"])

    @property
    def picture(self) -> Path | None:
        """Where the picture of the grid is, once it has been drawn; object storage takes none."""
        if self.store.is_remote or not self.lines:
            return None
        return self.store.path / "pictures" / f"{self.grid.name}.png"

    def draw(self) -> Path | None:
        """Draw test score against trainable parameters, and return where it is."""
        from sweeper.picture import draw

        if self.picture is not None:
            draw(self.lines, self.grid.question, self.picture)
        return self.picture

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {status}" for status, number in self.statuses.items()) or "none run"
        return f"<Outcome of {self.grid.name}: {len(self.grid.trials)} trials, {counts}, in {self.store.name}>"

    def _repr_html_(self) -> str:
        """Return the tables of `sweeper show --summary`, for notebooks."""
        from sweeper.table import as_html

        return f"<p>{html.escape(repr(self))}</p>{as_html(self.lines)}"


def rows_of(rows: Sequence[TrialResult], trials: Sequence[TrialSpec]) -> list[TrialResult]:
    """Return the rows that are of these trials."""
    wanted = {trial.trial_id for trial in trials}
    return [row for row in rows if row.trial_id in wanted]


def filtered(results: Sequence[TrialResult], filters: Mapping[str, Any]) -> list[TrialResult]:
    """Return the rows that fit all filters that are set; a value that no row has is a mistake.

    Args:
        results: Rows of one store.
        filters: Names of fields of a spec, or ``status``; ``None`` lets everything through.

    Raises:
        ValueError: no row has such a value.
    """
    for name, value in filters.items():
        if value is None:
            continue
        known = {result.status.value if name == "status" else getattr(result.spec, name) for result in results}
        if value not in known and name != "status":
            from sweeper.suggest import no_such

            raise no_such(f"{name} in this store", value, map(str, known))
        results = [r for r in results if value == (r.status.value if name == "status" else getattr(r.spec, name))]
    return list(results)


def serve_command(outcome: Outcome) -> str | None:
    """Return the command that serves the best trial, its weights being made again where they were not kept."""
    best = outcome.best
    if best is None or outcome.store.is_remote:
        return None
    folder = outcome.store.path / "adapters" / best.trial_id
    own = "" if str(outcome.store.path) == "results" else f" --results {shlex.quote(outcome.store.name)}"
    again = "" if folder.is_dir() else f"sweeper adapters save {best.trial_id}{own} && "
    return f"{again}sweeper serve {shlex.quote(str(folder))}"


def report_command(store: ResultsStore) -> str:
    """Return the command that writes the report of a store."""
    return "sweeper report" + ("" if str(store.path) == "results" else f" --results {shlex.quote(store.name)}")


def next_command(store: ResultsStore, lines: Sequence[Line]) -> tuple[str, str]:
    """Return the command that asks for advice on the first situation of a sweep, and why it says how similar."""
    own = str(store.path) != "results"
    fit = f"advisor fit --results {shlex.quote(store.name)}" if own else "advisor fit"
    fitted = "advisor.json" if store.is_remote else shlex.quote(str(store.path / "advisor.json"))
    recommend = f"advisor recommend --fitted {fitted}" if own else "advisor recommend"
    first = lines[0]
    facts = first.trials[0].context
    recommend += f" --model-params {facts['model_params']} --n-train {first.n_train} --modality {facts['modality']}"
    here = [line for line in lines if line.situation == first.situation]
    why = ""
    found = similarity(here)
    if found is not None:
        why = f"the source model does {100 * found:.0f} % as well on {first.task} as on its own domain"
    else:
        found = transfer(here)
        if found is not None:
            why = f"frozen features of {first.model} go {100 * found:.0f} % of the way from chance to perfect"
    if found is not None:
        flag = "--task-similar" if found >= SIMILAR_FROM else "--task-different"
        recommend += f" {flag}"
        why = f"{flag}: {why}; {100 * SIMILAR_FROM:.0f} % counts as similar, a rule of thumb"
    return f"{fit} && {recommend}", why
