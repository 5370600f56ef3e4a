"""The parts of a report about all rows: failures, diagnoses, where rows come from, how to make them again."""

from __future__ import annotations

import shlex
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from sweeper.diagnose import DIAGNOSES, diagnoses_of
from sweeper.page import element, join, table
from sweeper.provenance import PACKAGES
from sweeper.spec import Status, TrialResult

GRIDS = Path(__file__).parent / "grids"
MOST_ERRORS = 20


def questions(rows: Iterable[TrialResult]) -> dict[str, str | None]:
    """Return the grids that rows were made for, the most rows first, with the questions of those that are shipped."""
    # Asked of the folder and not by name: names come from rows. `sweeper.grid` would take seconds to load torch.
    shipped = {path.stem: path for path in GRIDS.glob("*.toml")}
    names = Counter(str(row.provenance["grid"]) for row in rows if row.provenance.get("grid"))
    return {
        name: tomllib.loads(shipped[name].read_text(encoding="utf-8"))["question"] if name in shipped else None
        for name, _ in names.most_common()
    }


def failures(rows: Sequence[TrialResult]) -> Markup:
    """Return what did not complete: how often, where, and the first line of what was said."""
    ended = Counter(row.status for row in rows)
    bad = [row for row in rows if row.status is not Status.COMPLETE]
    if not bad:
        return element("p", f"None: all {len(rows):,} trials are complete.")
    groups: dict[tuple[str, ...], int] = Counter(
        (_words(row.status), row.spec.strategy, row.spec.model, row.spec.task, _first_line(row.error)) for row in bad
    )
    counted = sorted(groups.items(), key=lambda group: (-group[1], group[0]))
    cells = [
        [status, strategy, f"{model} on {task}", said, str(n)] for (status, strategy, model, task, said), n in counted
    ]
    counts = ", ".join(f"{n:,} {_words(status)}" for status, n in ended.items() if status is not Status.COMPLETE)
    parts = [
        element(
            "p",
            f"{len(bad):,} of {len(rows):,} trials: {counts}. Running out of memory and divergence are findings about "
            "a strategy; what crashed, was timed out or preempted is run again by the next ",
            element("code", "sweeper launch"),
            ".",
        ),
        table(
            ["ended", "strategy", "where", "what was said", "trials"], cells[:MOST_ERRORS], label="Failures", words=4
        ),
    ]
    if len(cells) > MOST_ERRORS:
        parts.append(element("p", f"And {len(cells) - MOST_ERRORS} more kinds.", class_="soft"))
    return join(parts)


def _words(status: Status) -> str:
    return status.value.replace("_", " ")


def _first_line(text: str | None) -> str:
    line = (text or "").strip().split("\n")[0]
    return line if len(line) <= 300 else f"{line[:300]} ..."


def diagnoses(rows: Sequence[TrialResult]) -> Markup:
    """Return what went wrong in trials, what to do about it, and where that is from."""
    found: dict[str, Counter[str]] = {}
    trials: Counter[str] = Counter()
    for row in rows:
        for name in diagnoses_of(row):
            if name in DIAGNOSES:  # names come from rows
                trials[name] += 1
                found.setdefault(name, Counter())[row.spec.strategy] += 1
    if not trials:
        return element("p", "Nothing was found.")
    cells = [
        [
            name.replace("_", " "),
            DIAGNOSES[name].symptom,
            DIAGNOSES[name].fix,
            ", ".join(f"{strategy} {n}" for strategy, n in found[name].most_common(3)),
            f"{n:,}",
        ]
        for name, n in trials.most_common()
    ]
    sources = [f"{name.replace('_', ' ')}: {DIAGNOSES[name].source}" for name, _ in trials.most_common()]
    return join(
        [
            element("p", "Over all rates that were tried, those that were not chosen included.", class_="soft small"),
            table(
                ["diagnosis", "what is seen", "what to do", "most often in", "trials"],
                cells,
                label="Diagnoses",
                words=4,
            ),
            element("p", f"Sources: {'; '.join(sources)}.", class_="soft small"),
        ]
    )


def provenance(rows: Sequence[TrialResult], stores: Mapping[str, str]) -> Markup:
    """Return code, versions, hardware, dates and folders."""
    dates = sorted(str(row.provenance["recorded_at"])[:10] for row in rows if row.provenance.get("recorded_at"))
    hardware = Counter(
        f"{row.provenance['gpu']}"
        if row.provenance.get("gpu")
        else f"{row.provenance['cpu']}, {row.provenance.get('cpu_count', '?')} CPUs"
        for row in rows
        if row.provenance.get("cpu")
    )
    commits = Counter(
        f"{str(row.provenance['commit'])[:12]}{' (with changes)' if row.provenance.get('dirty') else ''}"
        for row in rows
        if row.provenance.get("commit")
    )
    cells = [
        ["recorded", " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "unknown"],
        ["hardware", _counted(hardware)],
        ["code", _counted(commits)],
        ["sweeper", _counted(Counter(str(row.provenance["version"]) for row in rows if row.provenance.get("version")))],
    ]
    for package in ("python", *PACKAGES):
        versions = [row.provenance.get("versions") for row in rows]
        own = Counter(str(v[package]) for v in versions if isinstance(v, Mapping) and package in v)
        cells += [[package, _counted(own)]] if own else []
    folders = Counter(stores[row.trial_id] for row in rows if row.trial_id in stores)
    cells += [["store", _counted(folders)]] if folders else []
    return table(["what", "values, with trials"], cells, label="Provenance", words=2)


def store_option(results: str) -> str:
    """Return what names a store in a command; nothing for the one that is meant without."""
    return "" if results == "results" else f" --results {shlex.quote(results)}"


def _counted(values: Counter[str]) -> str:
    """Return values with how often each occurs, where there is more than one."""
    most = values.most_common(8)
    more = f" and {len(values) - len(most)} more" if len(values) > len(most) else ""
    return ", ".join(f"{value} ({n:,})" if len(values) > 1 else value for value, n in most) + more or "unknown"


def reproduce(rows: Sequence[TrialResult], command: str, results: str) -> Markup:
    """Return the commands that make these rows, and this page, again."""
    commits = {str(row.provenance.get("commit")) for row in rows if row.provenance.get("commit")}
    lines = ['pip install -e ".[hf,data,qlora,search]"']
    if len(commits) == 1:
        lines.insert(0, f"git checkout {shlex.quote(commits.pop())}")
    where = store_option(results)
    for name, question in questions(rows).items():
        file = name if question else f"{name}.toml"
        lines.append(f"sweeper launch --grid {shlex.quote(file)}{where}")
    lines += [f"sweeper show --summary{where}", command]
    text = (
        "A launch runs only what the store does not have: into an empty one, name another folder. Grids that end in "
        ".toml are files of whoever made the rows. Equal seeds give equal rows on equal machines; scores differ a "
        "little between kinds of hardware, times a lot."
    )
    return join(
        [element("pre", element("code", "\n".join(lines)), tabindex=0), element("p", text, class_="soft small")]
    )
