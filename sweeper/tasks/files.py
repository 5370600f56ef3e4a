"""A user's file as a table of columns: CSV, Parquet, JSON lines, columns of words and tags, a `datasets` name.

Nothing is guessed in silence: what was assumed is noted in the table, and what cannot be read is refused with the
place in the file and the way out.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sweeper.models.base import UnavailableError

MAX_BYTES = 2**30
MAX_LINE = 2**24
CHUNK = 2**20
DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
SNIFFED = 50  # records that the delimiter is judged by
MISSING = {"", "na", "n/a", "nan", "null"}
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
PARTS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}

Column = list[Any]


@dataclass(frozen=True)
class Table:
    """Columns of equal length, as they were read; a missing value is ``None``.

    Attributes:
        source: What messages call it.
        columns: Name -> values: texts, numbers, lists, images `sweeper.tasks.pictures.Picture`, or whatever JSON holds.
        at: What names each row to the user: its number, or an image's file.
        notes: What was assumed, a line each.
        classes: For columns of class numbers whose names are known: the names.
    """

    source: str
    columns: dict[str, Column]
    at: list[Any]
    notes: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.at)


def read_table(data: str, encoding: str | None = None, one_column: bool = False) -> Table:
    """Return the rows of a file, of a folder of images, or of ``hf:NAME[:CONFIG]``.

    Args:
        data: The file, the folder or the name.
        encoding: Of a text file; ``None`` for UTF-8, or UTF-16 where its mark stands at the beginning.
        one_column: Whether a file of one column is rows too: texts without labels.

    Raises:
        ValueError: it cannot be read as what it seems to be; says where and what to do.
        UnavailableError: a data set that is neither here nor to be fetched.
    """
    if data.startswith("hf:"):
        return _hub(data)
    path = Path(data)
    try:
        if path.is_dir():
            from sweeper.tasks.pictures import read_folder

            table = read_folder(path)
        elif not path.exists():
            raise ValueError(f"there is no file or folder {data!r}: check the path, or hf:NAME for one of the Hub")
        elif not path.is_file():
            raise ValueError(f"{data!r} is no plain file and no folder: name one of them")
        else:
            reader = READERS.get(path.suffix.lower())
            if reader is _delimited and one_column:
                reader = partial(_delimited, one_column=True)
            if reader is None:
                known = ", ".join(sorted(READERS))
                raise ValueError(
                    f"{data!r} is of no kind that is known here: {known}, a folder of images, or hf:NAME. Name one of "
                    "these"
                )
            table = reader(path, encoding)
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError to pathlib
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{data!r} cannot be read: {reason}. Check its path and its permissions") from None
    if not len(table):
        raise ValueError(f"{data!r} has no rows: put some in, or name another file")
    return table


def _content(path: Path) -> bytes:
    """Return a text file's bytes; a line beyond all measure is refused before the rest is read."""
    chunks: list[bytes] = []
    total, line = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total += len(chunk)
            first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
            if line + (len(chunk) if first < 0 else first) > MAX_LINE:
                number = sum(part.count(b"\n") for part in chunks) + 1
                raise ValueError(f"{str(path)!r}: line {number} is longer than {MAX_LINE // 2**20} MB: no file of rows")
            line = line + len(chunk) if last < 0 else len(chunk) - last - 1
            if total > MAX_BYTES:
                raise ValueError(f"{str(path)!r} is larger than {MAX_BYTES // 2**20:,} MB: take a part of it")
            chunks.append(chunk)
    if not total:
        raise ValueError(f"{str(path)!r} is empty: put rows in, or name another file")
    return b"".join(chunks)


def _text(path: Path, encoding: str | None, notes: list[str]) -> str:
    """Return a text file's content; whatever was assumed about its encoding is noted."""
    content = _content(path)
    marked = next((name for mark, name in BOMS.items() if content.startswith(mark)), None)
    chosen = encoding or marked or "utf-8"
    try:
        text = content.decode(chosen)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{str(path)!r} is not {chosen.upper()}: byte {error.start} (line {line}) is 0x{content[error.start]:02x}. "
            "Name its encoding, for example --encoding cp1252"
        ) from None
    except (LookupError, UnicodeError):  # a name that is none, or of which not even a look-up can be made
        raise ValueError(f"there is no encoding {chosen!r}; for example utf-8, utf-16, cp1252, latin-1") from None
    if (at := text.find("\0")) >= 0:
        raise ValueError(
            f"{str(path)!r} has a NUL character in line {text.count(chr(10), 0, at) + 1}: it is no text, damaged, "
            "or UTF-16 without its mark (--encoding utf-16-le)"
        )
    if chosen != "utf-8":
        notes.append(f"encoding: {chosen}, {'as asked' if encoding else 'from the mark at the beginning'}")
    return text.removeprefix("\ufeff")


def _delimited(path: Path, encoding: str | None, one_column: bool = False) -> Table:
    notes: list[str] = []
    text = _text(path, encoding, notes)
    if path.suffix.lower() == ".txt" and _looks_like_columns(text):
        return _conll_text(path, text, notes)
    delimiter = _delimiter(path, text, one_column)
    notes.append(f"delimiter: {DELIMITERS[delimiter]}")
    try:
        records = _records(path, text, delimiter)
    except ValueError:
        if delimiter != "\t":
            raise
        records = _records(path, text, delimiter, quoting=csv.QUOTE_NONE)  # in tab-separated files quotes are signs
        notes.append("quotes: taken as they stand")
    (_, header), *rows = records
    names = _header(path, header, rows)
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{str(path)!r}: line {line} has {len(row)} fields, and the header has {len(names)}: put what holds "
                "a separator in quotes"
            )
    columns = {
        name: [None if row[i].strip().lower() in MISSING else row[i] for _, row in rows] for i, name in enumerate(names)
    }
    return Table(path.name, columns, list(range(1, len(rows) + 1)), notes)


def _records(path: Path, text: str, delimiter: str, quoting: int = csv.QUOTE_MINIMAL) -> list[tuple[int, list[str]]]:
    """Return each record with the line that it begins in; blank lines are left out."""
    before = csv.field_size_limit(MAX_LINE)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, quoting=quoting)  # type: ignore[arg-type]
    found, begins = [], 1
    try:
        for record in reader:
            if record:
                found.append((begins, record))
            begins = reader.line_num + 1
    except csv.Error as error:
        what = "a quote opens there and is never closed" if "end of data" in str(error) else str(error)
        raise ValueError(
            f"{str(path)!r}: the record that begins in line {begins}: {what}. Close its quotes, or delete it"
        ) from None
    finally:
        csv.field_size_limit(before)
    if not found:
        raise ValueError(f"{str(path)!r} has no lines: put rows in, or name another file")
    return found


def _delimiter(path: Path, text: str, one_column: bool = False) -> str:
    """Return the delimiter that splits the first records most evenly into more than one field."""

    def evenness(delimiter: str) -> tuple[float, int]:
        reader = csv.reader(io.StringIO(text[: 2**20], newline=""), delimiter=delimiter)
        lengths = []
        try:
            for record in reader:
                if record:
                    lengths.append(len(record))
                if len(lengths) > SNIFFED:
                    break
        except csv.Error:
            pass
        if not lengths or lengths[0] < 2:
            return (0.0, 0)
        return sum(length == lengths[0] for length in lengths) / len(lengths), lengths[0]

    scores = {delimiter: evenness(delimiter) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=lambda delimiter: scores[delimiter])
    if path.suffix.lower() == ".tsv" and scores["\t"][0]:
        best = "\t"
    if not scores[best][0] and one_column and text.strip():
        return min(DELIMITERS, key=text.count)
    if not scores[best][0]:
        first = text.lstrip().splitlines()[0] if text.strip() else ""
        raise ValueError(
            f"{str(path)!r} has only one column ({_short(first)}): "
            f"none of {', '.join(DELIMITERS.values())} separates its fields; put one of them between text and label"
        )
    return best


def _header(path: Path, header: list[str], rows: list[Any]) -> list[str]:
    names = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
    twice = [name for name, number in Counter(names).items() if number > 1]
    numbers = [name for name in names if as_number(name) is not None]
    # A name that is also a value of its column, again and again, is a value.
    again = [name for i, name in enumerate(names) if sum(row[i : i + 1] == [name] for _, row in rows) > 1]
    long = [name for name in names if len(name.split()) > 8]
    for name in (*numbers, *long, *again):
        raise ValueError(
            f"{str(path)!r}: the first line must name the columns, and {_short(name)} is no name: "
            "put a line such as text,label first"
        )
    if twice:
        raise ValueError(f"{str(path)!r} has more than one column {_short(twice[0])}: name each once")
    if not rows:
        raise ValueError(f"{str(path)!r} has a header and no rows: put some in, or name another file")
    return names


def as_number(value: Any) -> float | None:
    """Return a value as a number, ``None`` where it is none; ``nan`` and ``inf`` are numbers too."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _json_lines(path: Path, encoding: str | None) -> Table:
    notes: list[str] = []
    text = _text(path, encoding, notes)
    try:
        if text.lstrip().startswith("["):
            where = "entry"
            objects = list(enumerate(json.loads(text), 1))
        else:
            where, place = "line", 0
            objects = []
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    place = number
                    objects.append((number, json.loads(line)))
    except json.JSONDecodeError as error:
        bad = error.lineno if where == "entry" else place
        raise ValueError(f"{str(path)!r}: line {bad} is no JSON ({error.msg}): mend or delete it") from None
    except RecursionError:
        raise ValueError(f"{str(path)!r}: its JSON is nested too deeply: put plain values in the rows") from None
    for number, found in objects:
        if not isinstance(found, dict):
            raise ValueError(
                f"{str(path)!r}: {where} {number} is {_short(json.dumps(found))}, and each must be an object "
                'such as {"text": ..., "label": ...}'
            )
    names = dict.fromkeys(name for _, found in objects for name in found)
    columns = {name: [found.get(name) for _, found in objects] for name in names}
    return Table(path.name, columns, list(range(1, len(objects) + 1)), notes)


def _parquet(path: Path, encoding: str | None) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        about = file.metadata
        total = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        if total > MAX_BYTES:
            raise ValueError(f"{str(path)!r} unpacks to more than {MAX_BYTES // 2**20:,} MB: take a part of it")
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise ValueError(f"{str(path)!r} has two columns of one name: {', '.join(names)[:200]}. Name each once")
        read = file.read()
        columns = {name: read[name].to_pylist() for name in names}
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"{str(path)!r} is no Parquet file, or damaged ({reason}): write it anew") from None
    return _unpacked(Table(path.name, columns, list(range(1, read.num_rows + 1))))


def _unpacked(table: Table) -> Table:
    """Return a table with the images of a `datasets` column, ``{"bytes": ..., "path": ...}``, as pictures."""
    for name, values in table.columns.items():
        if values and isinstance(values[0], dict) and isinstance(values[0].get("bytes"), bytes):
            from sweeper.tasks.pictures import Picture

            table.columns[name] = [
                Picture(content=value["bytes"]) if isinstance(value, dict) and value.get("bytes") else None
                for value in values
            ]
    return table


def _looks_like_columns(text: str) -> bool:
    """Return whether lines are words with tags, blank lines between sentences."""
    lines = text[: 2**16].splitlines()[:-1]
    return any(not line.strip() for line in lines) and all(
        2 <= len(line.split()) <= 8 for line in lines if line.strip()
    )


def _conll(path: Path, encoding: str | None) -> Table:
    notes: list[str] = []
    return _conll_text(path, _text(path, encoding, notes), notes)


def _conll_text(path: Path, text: str, notes: list[str]) -> Table:
    """Return sentences of a file with a word and its tag, first and last in a line, and blank lines between."""
    words: list[list[str]] = []
    tags: list[list[str]] = []
    begin = True
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or fields[0] == "-DOCSTART-":
            begin = True
            continue
        if len(fields) < 2 or not fields[0].strip() or not fields[-1].strip():
            raise ValueError(f"{str(path)!r}: line {number} must hold a word and its tag, and is {_short(line)}")
        if begin:
            words.append([])
            tags.append([])
            begin = False
        words[-1].append(fields[0].strip())
        tags[-1].append(fields[-1].strip())
    notes.append("lines: a word first, its tag last; a blank line ends a sentence")
    return Table(path.name, {"words": words, "tags": tags}, list(range(1, len(words) + 1)), notes)


def _hub(data: str) -> Table:
    """Return a data set of the Hub, of its cache, or of a local folder that `datasets` can read."""
    _, name, *rest = data.split(":")
    config = rest[0] if rest else None
    try:
        import datasets
    except ImportError:
        raise UnavailableError(f"{data} needs the package datasets: pip install 'sweeper-advisor[hf]'") from None
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, config)
    except Exception as error:  # whatever the library and the network raise, to the user it is one thing
        raise UnavailableError(_not_to_be_had(data, name, error)) from None
    sets = dict(found) if isinstance(found, dict) else {"train": found}
    if sum(len(part) for part in sets.values()) == 0:
        raise ValueError(f"{data} has no rows: name another data set")
    first = next(iter(sets.values()))
    columns: dict[str, Column] = {column: [] for column in first.column_names}
    classes: dict[str, list[str]] = {}
    split: list[str] = []
    for part, rows in sets.items():
        if set(rows.column_names) != set(columns):
            continue  # an extra split of other columns
        for column in columns:
            feature = rows.features[column]
            inner = getattr(feature, "feature", feature)
            if isinstance(inner, datasets.ClassLabel):
                classes[column] = list(inner.names)
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
            columns[column] += rows[column]
        split += [part] * len(rows)
    if len(set(split)) > 1 and "split" not in columns:
        columns["split"] = list(split)
    at = [f"{part} {number}" for part, number in _numbered(split)]
    return _unpacked(
        Table(data, columns, at, [f"splits: {', '.join(f'{k} {len(v)}' for k, v in sets.items())}"], classes)
    )


def _numbered(split: list[str]) -> Iterator[tuple[str, int]]:
    seen: Counter[str] = Counter()
    for part in split:
        seen[part] += 1
        yield part, seen[part]


def _not_to_be_had(data: str, name: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:150]
    if Path(name).exists():
        return f"{data}: datasets cannot read this folder ({reason}): name a file in it"
    return (
        f"{data} is not here and cannot be fetched ({type(error).__name__}: {reason}). With a network: check the name. "
        f"Without: on a machine that has one, `hf download {name} --repo-type dataset --local-dir FOLDER`, bring the "
        "folder, and say --data hf:FOLDER; or bring that machine's cache (~/.cache/huggingface)"
    )


def _short(text: str) -> str:
    """Return the beginning of a text for a message."""
    text = re.sub(r"\s+", " ", text)
    return repr(text if len(text) <= 40 else text[:37] + "...")


READERS: dict[str, Callable[[Path, str | None], Table]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), _delimited),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _json_lines),
    **dict.fromkeys((".parquet", ".pq"), _parquet),
    **dict.fromkeys((".conll", ".bio", ".iob"), _conll),
}
