"""The user's own data: how files are read and understood, and what their splits promise."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.grid import load_grid
from sweeper.models.base import UnavailableError
from sweeper.own_data import own_data
from sweeper.tasks import find_task
from sweeper.tasks.clean import clean, normalised
from sweeper.tasks.columns import Asked, choose
from sweeper.tasks.files import Table, read_table
from sweeper.tasks.own import place as place_of
from sweeper.tasks.own import prepare
from sweeper.tasks.rows import TEST, TRAIN, Rows, sizes_of, split_rows
from sweeper.trial import check_all
from tests.conftest import Called

N = 60
TEXTS = [f"a film of the kind that one sees once, number {i}" for i in range(N)]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def understood(columns: dict[str, list[Any]], **asked: Any) -> Any:
    return choose(Table("it", columns, list(range(1, len(next(iter(columns.values()))) + 1))), Asked("it", **asked))


LABELS = ["good", "bad"] * (N // 2)


@pytest.mark.parametrize(
    ("columns", "work", "modality", "inputs", "label"),
    [
        ({"text": TEXTS, "label": LABELS, "id": list(range(N))}, "classification", "text", ("text",), "label"),
        ({"title": ["T"] * N, "body": TEXTS, "stars": [1, 2, 3] * 20}, "classification", "text", ("body",), "stars"),
        ({"review": TEXTS, "y": [i / 7 for i in range(N)]}, "regression", "text", ("review",), "y"),
        ({"instruction": TEXTS, "output": TEXTS[::-1]}, "generation", "text", ("instruction",), "output"),
        ({"question": TEXTS, "answer": LABELS}, "classification", "text", ("question",), "answer"),
        ({"tokens": [["a", "b"]] * N, "ner_tags": [["O", "B"]] * N}, "tagging", "text", ("tokens",), "ner_tags"),
        ({"a": [*range(N)], "b": LABELS, "target": [*range(N)]}, "regression", "tabular", ("a", "b"), "target"),
        ({"x": [i / 3 for i in range(N)], "species": LABELS}, "classification", "tabular", ("x",), "species"),
    ],
)
def test_columns_and_work_are_found_out(
    columns: dict[str, list[Any]], work: str, modality: str, inputs: tuple[str, ...], label: str
) -> None:
    found = understood(columns)
    assert (found.work, found.modality, found.inputs, found.label) == (work, modality, inputs, label)


def test_every_format_gives_the_same_task(place: Path) -> None:
    frame = pd.DataFrame({"text": [f'{t}, said "they";\tor é' for t in TEXTS], "label": LABELS})
    writers = {
        "comma.csv": lambda f: frame.to_csv(f, index=False),
        "semicolon.csv": lambda f: frame.to_csv(f, index=False, sep=";"),
        "tab.tsv": lambda f: frame.to_csv(f, index=False, sep="\t"),
        "bar.txt": lambda f: frame.to_csv(f, index=False, sep="|"),
        "mark.csv": lambda f: frame.to_csv(f, index=False, encoding="utf-8-sig"),
        "wide.csv": lambda f: frame.to_csv(f, index=False, encoding="utf-16"),
        "file.parquet": lambda f: frame.to_parquet(f),
        "lines.jsonl": lambda f: frame.to_json(f, orient="records", lines=True),
        "array.json": lambda f: frame.to_json(f, orient="records"),
    }
    hashes = set()
    for name, write in writers.items():
        write(place / name)
        hashes.add(prepare(Asked(name)).task.rpartition("-")[2])
    assert len(hashes) == 1
    (place / "set").mkdir()
    frame.to_parquet(place / "set" / "train.parquet")
    assert prepare(Asked("hf:set")).task.rpartition("-")[2] in hashes
    frame.to_csv(place / "latin.csv", index=False, encoding="cp1252")
    assert prepare(Asked("latin.csv", encoding="cp1252")).task.rpartition("-")[2] in hashes


def test_words_and_tags(place: Path) -> None:
    block = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\nGerman{} JJ B-MISC\ncall NN O\nnow RB O\n\n"
    (place / "news.conll").write_text("".join(block.format(i).replace("EU", f"EU{i}") for i in range(N)))
    prepared = prepare(Asked("news.conll"))
    assert prepared.rows.names == ("B-MISC", "B-ORG", "O")
    assert prepared.rows.inputs[1] == ("German0", "call", "now")
    assert list(prepared.rows.labels[1]) == [0, 2, 2]
    data = find_task(prepared.task).load(0, 20)
    assert data.splits["train"].y.shape == (20, 3)


def test_a_folder_of_images(place: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (N, 6, 6), np.uint8)
    for i, image in enumerate(pixels):
        for part in ("flat", "parts/test" if i < 10 else "parts/train"):
            file = place / part / ("odd" if i % 2 else "even") / f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    rows = prepare(Asked("flat")).rows
    assert rows.inputs.shape == (N, 6, 6, 1)
    assert {image.tobytes() for image in rows.inputs} == {image.tobytes() for image in pixels}
    assert rows.names == ("even", "odd")
    assert prepare(Asked("flat", image_size=12)).rows.inputs.shape == (N, 12, 12, 1)
    given_parts = prepare(Asked("parts"))
    test = find_task(given_parts.task).load(3, 20).splits["test"]
    wanted = {(image / np.float32(255)).tobytes() for image in pixels[:10].astype(np.float32)}
    assert {x.numpy().tobytes() for x in test.x} == wanted, "the test rows are those of the folder test"


def test_what_is_dropped_is_counted_and_listed(place: Path) -> None:
    extra = [
        ("", "good"),
        ("no label here", None),
        (TEXTS[0], LABELS[0]),
        (TEXTS[1].upper() + "!!", LABELS[1]),
        ("=1+1 same", "good"),
        ("=1+1 same", "bad"),
        ("the only one", "rare"),
    ]
    rows = [*zip(TEXTS, LABELS, strict=True), *extra]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(place / "it.csv", index=False)
    prepared = prepare(Asked("it.csv"))
    assert prepared.report["dropped"] == {
        "same input, contradicting labels": 2,
        "empty text": 1,
        "no label": 1,
        "duplicate": 1,
        "duplicate but for case and signs": 1,
        "a class of fewer than 3 rows": 1,
    }
    assert prepared.dropped is not None
    listed = list(csv.DictReader(prepared.dropped.open()))
    assert [row["row"] for row in listed] == [str(N + i) for i in range(1, 8)]
    assert listed[4]["beginning"] == "'=1+1 same", "no cell is a formula"
    assert len(prepared.rows) == N


def test_equal_data_is_one_task_and_a_damaged_file_none(place: Path) -> None:
    frame = pd.DataFrame({"text": TEXTS, "label": LABELS})
    frame.to_csv(place / "it.csv", index=False)
    (place / "other").mkdir()
    frame.to_csv(place / "other" / "it.csv", index=False, sep=";")
    name = prepare(Asked("it.csv")).task
    assert prepare(Asked("other/it.csv")).task == name
    frame.assign(text=[*TEXTS[:-1], "another"]).to_csv(place / "it.csv", index=False)
    assert prepare(Asked("it.csv")).task != name
    file = place_of(name.removeprefix("own:"))
    whole = file.read_bytes()
    other = place_of(prepare(Asked("it.csv")).task.removeprefix("own:"))
    for content in (whole[: len(whole) // 2], other.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            find_task(name).load(0, 20)
    assert prepare(Asked("other/it.csv")).task == name, "preparing again mends it"
    find_task(name).load(0, 20)
    file.unlink()
    with pytest.raises(UnavailableError, match=r"not here: run `sweeper data check FILE`.*bring"):
        find_task(name)


def test_a_grid_runs_on_own_data(place: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 2))
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1] * 1000, "label": x.sum(1) > 0}).to_csv(place / "it.csv", index=False)
    own = own_data(Asked("it.csv"))
    assert own.models == ("mlp",)
    trials, left_out = check_all(load_grid("strategies", own=own).trials, lenient=True)
    assert {trial.task for trial in trials} == {own.prepared.task}
    reasons = " ".join(left.reason for left in left_out)
    for reason in ("source domain", "prompt_tuning does not apply"):
        assert reason in reasons
    assert "lora" in {trial.strategy for trial in trials}, "two columns are no reason to refuse its default rank of 8"
    assert {trial.n_train for trial in trials} == {sizes_of(own.prepared.rows)[0]}
    x = find_task(own.prepared.task).load(0, 36).splits["train"].x
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(0, correction=0), 1, atol=1e-5)


def test_what_init_writes_is_a_grid(place: Path, called: Called) -> None:
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(place / 'my "films".csv', index=False)
    assert called("init", 'my "films".csv')[0] == 0
    code, _, err = called("init", 'my "films".csv')
    assert code == 2
    assert "is there already" in err
    trials = load_grid("my_films.toml").trials
    assert {trial.strategy for trial in trials} == {"full", "feature_extraction", "lora", "partial_unfreeze"}
    _, out, _ = called("data", "check", 'my "films".csv', "--format", "json")
    assert json.loads(out)["task"] == trials[0].task


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, bool]:
    """A table of few different texts, so that there are duplicates, with classes and, sometimes, groups."""
    n = draw(st.integers(25, 120))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    words = rng.integers(0, draw(st.sampled_from([60, 400])), n)
    texts = [(f"Film {w}", f"film {w}!", f"film  {w}")[k] for w, k in zip(words, rng.integers(0, 3, n), strict=True)]
    shares = rng.dirichlet(np.ones(draw(st.integers(2, 5))))
    labels = [str(rng.choice(len(shares), p=shares)) if rng.random() < 0.1 else str(w % len(shares)) for w in words]
    columns: dict[str, list[Any]] = {"text": texts, "label": labels}
    groups = draw(st.booleans())
    if groups:
        columns["user"] = rng.integers(0, draw(st.integers(6, 60)), n).tolist()
    return Table("it", columns, list(range(n))), groups


@given(tables(), st.integers(0, 5))
@settings(max_examples=150)
def test_splits_share_no_row_no_text_and_no_group(drawn: tuple[Table, bool], seed: int) -> None:
    table, groups = drawn
    asked = Asked("it", text_column="text", group_column="user" if groups else None, work="classification")
    try:
        rows = clean(table, choose(table, asked), asked).rows
        n_train = sizes_of(rows)[0]
        data = split_rows(rows, "it", seed, n_train)
    except ValueError as error:
        if not any(word in str(error) for word in ("usable", "too few", "no classes", "one class", "groups")):
            raise
        return
    assert all(data.splits.values())
    seen: Counter[Any] = Counter()
    owner: dict[Any, str] = {}
    of = {} if rows.groups is None else {text: int(g) for text, g in zip(rows.inputs, rows.groups, strict=True)}
    for part, split in data.splits.items():
        seen.update(normalised(text) for text in split.texts)
        for text in split.texts:
            assert owner.setdefault(of.get(text, text), part) == part
    assert max(seen.values()) == 1
    assert set(data.splits["train"].y.tolist()) == set(range(data.n_classes)), "every class is trained on"
    if rows.groups is None:
        for split in data.splits.values():
            there = len(set(split.y.tolist()))
            assert there == min(data.n_classes, len(split)), "and, without groups, in every split that has room"
        assert [len(split) for split in data.splits.values()] == list(sizes_of(rows))
    again, fewer = split_rows(rows, "it", seed, n_train), split_rows(rows, "it", seed, data.n_classes)
    assert {k: v.texts for k, v in again.splits.items()} == {k: v.texts for k, v in data.splits.items()}
    assert set(fewer.splits["train"].texts) <= set(data.splits["train"].texts)
    assert len(set(fewer.splits["train"].y.tolist())) == data.n_classes


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(max_examples=40)
def test_groups_are_stratified_about_as_well_as_scikit_learn_does(seed: int, classes: int) -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(seed)
    y = np.repeat(rng.integers(0, classes, 80), 5)  # each group has one class: the hardest to balance
    y[::7] = rng.integers(0, classes, len(y[::7]))
    groups = np.repeat(np.arange(80), 5)
    rows = Rows("classification", "text", tuple(map(str, range(len(y)))), y, tuple("abcdef"[:classes]), groups)
    test = split_rows(rows, "it", seed, sizes_of(rows)[0]).splits["test"]
    shares = np.bincount(y, minlength=classes) / len(y)

    def off(labels: np.ndarray) -> float:
        return float(np.abs(np.bincount(labels, minlength=classes) / len(labels) - shares).max())

    theirs = [off(y[fold]) for _, fold in StratifiedGroupKFold(4).split(y, y, groups)]
    assert off(test.y.numpy()) <= max(0.08, 2 * max(theirs))
    assert len(test) >= 0.8 * sizes_of(rows)[2]


def test_parts_that_rows_come_in_are_kept(place: Path) -> None:
    parts = ["train"] * 40 + ["test"] * 20
    pd.DataFrame({"text": [*TEXTS[:59], TEXTS[0]], "label": LABELS, "split": parts}).assign(
        label=lambda d: [*d.label[:59], d.label[0]]
    ).to_csv(place / "it.csv", index=False)
    prepared = prepare(Asked("it.csv"))
    assert np.bincount(prepared.rows.parts).tolist() == [39, 0, 20], "of a pair, the test row stays"
    assert any("leakage: 1" in note for note in prepared.report["notes"])
    data = find_task(prepared.task).load(1, 20)
    texts = {part: set(split.texts) for part, split in data.splits.items()}
    known = {p: {t for t, q in zip(prepared.rows.inputs, prepared.rows.parts, strict=True) if q == p} for p in (0, 2)}
    assert texts["test"] == known[TEST]
    assert texts["train"] | texts["valid"] <= known[TRAIN]
    assert read_table("it.csv").columns["split"] == parts
