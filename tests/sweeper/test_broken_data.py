"""Data that cannot be used: one clear line, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.conftest import Called, Command

KIND, UNKIND = "a film that I liked number", "a film that bored me number"
GOOD = ["text,label", *(f"{(KIND, UNKIND)[i % 2]} {i},{('kind', 'unkind')[i % 2]}" for i in range(40))]

Make = Callable[[Path], None]


def written(*lines: str) -> Make:
    return lambda file: file.write_text("\n".join(lines) + "\n", encoding="utf-8") and None


def raw(content: bytes) -> Make:
    return lambda file: file.write_bytes(content) and None


def changed(old: str, new: str) -> Make:
    return raw("\n".join(GOOD).replace(old, new).encode())


def json_lines(*objects: object) -> Make:
    return written(*(json.dumps(found) for found in objects))


def frame(**columns: object) -> Make:
    return lambda file: pd.DataFrame(columns).to_csv(file, index=False)


def two_gigabytes(file: Path) -> None:
    with file.open("wb") as out:
        out.write(b"text,label\n" + b"x" * 100)
        out.truncate(2**31)  # sparse: it takes no room


def cut_parquet(file: Path) -> None:
    pd.DataFrame({"text": [KIND] * 30, "label": [1] * 30}).to_parquet(file)
    file.write_bytes(file.read_bytes()[:-40])


def loop(file: Path) -> None:
    file.symlink_to(file)


def folder(make: Make) -> Make:
    def made(place: Path) -> None:
        place.mkdir()
        make(place)

    return made


def images(content: bytes | None, classes: int = 2) -> Make:
    def made(place: Path) -> None:
        rng = np.random.default_rng(0)
        for number in range(20 * classes):
            file = place / f"class{number % classes}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(file)
            if content is not None:
                file.write_bytes(content or file.read_bytes()[:60])

    return folder(made)


def bombs(place: Path) -> None:
    """Images of 40,000 x 40,000 pixels that are a few hundred bytes long: only their headers are true."""
    images(None)(place)
    for file in place.rglob("*.png"):
        content = bytearray(file.read_bytes())
        content[16:24] = (40_000).to_bytes(4, "big") * 2
        import zlib

        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        file.write_bytes(content)


def loose_image(place: Path) -> None:
    Image.new("L", (8, 8)).save(place / "one.png")


def table_in_folder(place: Path) -> None:
    (place / "reviews.csv").write_text("\n".join(GOOD))


def unreadable(file: Path) -> None:
    written(*GOOD)(file)
    file.chmod(0)


texts = [f"{KIND} {i}" for i in range(60)]
numbers = np.arange(60.0)

BROKEN: list[tuple[str, Make, str, str]] = [
    # name, how it is made, further options, what the line says
    ("none.csv", lambda file: None, "", "there is no file or folder"),
    ("empty.csv", raw(b""), "", "is empty"),
    ("blank.csv", raw(b"\n\n \n"), "", "only one column"),
    ("header.csv", written("text,label"), "", "a header and no rows"),
    ("delimiter.csv", changed(",", "~"), "", "only one column.*none of comma, tab, semicolon, bar"),
    ("mark.csv", raw("\ufefftext,label\nonly one,a\n".encode()), "", "all labels in 'label' are 'a'"),
    ("nul.csv", changed("number 3", "number\0"), "", "NUL character in line 5"),
    ("utf16.csv", raw("\n".join(GOOD).encode("utf-16-le")), "", "NUL character in line 1.*--encoding utf-16-le"),
    ("latin.csv", raw("\n".join(GOOD).encode() + b"\nd\xe9j\xe0 vu,kind\n"), "", r"byte \d+ \(line 42\) is 0xe9"),
    ("odd.csv", written(*GOOD), "--encoding klingon", "there is no encoding 'klingon'"),
    ("odd.csv", written(*GOOD), "--encoding \udcff", "there is no encoding '.udcff'"),
    ("one_class.csv", changed("unkind", "kind"), "", "all labels in 'label' are 'kind': one class"),
    ("one_row.csv", written(*GOOD[:2]), "", "all labels in 'label' are 'kind'"),
    ("few.csv", written(*GOOD[:11]), "", "has 10 usable rows, and splits need at least 20"),
    ("no_label.csv", frame(text=texts, other=texts), "", "no column looks like a label, of 'text', 'other'"),
    ("which.csv", frame(text=texts, a=["x", "y"] * 30, b=["u", "v"] * 30), "", "'a', 'b' could each be the label"),
    ("texts.csv", frame(one=texts, two=texts, label=[0, 1] * 30), "", "'one', 'two' could each be the text"),
    ("missing.csv", frame(text=texts, label=[None] * 60), "", "no row has a label in 'label'"),
    ("classes.csv", frame(text=[f"{KIND} {i}" for i in range(10_000)], label=[f"c{i}" for i in range(10_000)]),
     "",
     "'label' has 10,000 different values in 10,000 rows.*no classes"),
    ("fewer.csv", frame(text=texts, label=[f"c{i}" for i in range(60)]), "", "60 different values in 60 rows"),
    ("dates.csv", frame(text=texts, label=pd.date_range("2024-01-01", periods=60).astype(str)), "", "such as '2024-01"),
    ("mixed.csv", frame(text=texts, label=[*map(str, numbers[:-1]), "cheap"]), "",
     "holds numbers, but 'cheap' in row 60"),
    ("mixed_feature.csv", frame(a=[*map(str, numbers[:-1]), "far"], b=numbers, label=[0, 1] * 30), "",
     "'a' holds numbers, but 'far' in row 60"),
    ("nan.csv", frame(a=[float("inf"), -float("inf")] * 30, label=[0, 1] * 30), "",
     "no usable row is left.*60 no finite"),
    ("constant.csv", frame(text=texts, label=[7.5] * 60), "--work regression", "all numbers in 'label' are equal"),
    ("contradicting.csv", frame(text=["the same"] * 60, label=["a", "b"] * 30), "",
     "no usable row is left.*60 same input, contradicting labels"),
    ("blank_texts.csv", frame(text=["  "] * 60, label=["a", "b"] * 30), "--text-column text", "'text' holds no texts"),
    ("ragged.csv", changed("number 3,", "number 3,x,"), "", "line 5 has 3 fields, and the header has 2"),
    ("quote.csv", changed("a film that I liked number 4,", '"a film,'), "", "begins in line 6: a quote opens there"),
    ("twice.csv", changed("text,label", "text,text"), "", "more than one column 'text'"),
    ("headless.csv", written(*GOOD[1:]), "", "must name the columns, and 'kind' is no name"),
    ("numbers.csv", written(*(f"{i},{i % 2}" for i in range(60))), "", "'0' is no name"),
    ("column.csv", written(*GOOD), "--text-column txt", "no column named 'txt' in column.csv. Did you mean 'text'"),
    ("groups.csv", frame(text=texts, label=[0, 1] * 30, user=[1, 2] * 30), "--group-column user", "has 2 groups"),
    ("big_groups.csv", frame(text=texts, label=[0] * 20 + [1] * 20 + [2] * 20, user=[1] * 20 + [2] * 20 + [3] * 20),
     "--group-column user", "3 groups that stay whole are too few"),
    ("test_only.csv", frame(text=texts, label=["a"] * 30 + ["b"] * 30, split=["train"] * 30 + ["test"] * 30), "",
     "2 different values in 60 rows.*only 1"),
    ("line.csv", two_gigabytes, "", "line 2 is longer than 16 MB"),
    ("loop.csv", loop, "", "there is no file|cannot be read"),
    ("secret.csv", unreadable, "", "cannot be read: Permission denied"),
    ("device", lambda file: os.mkfifo(file), "", "no plain file"),
    ("table.xlsx", raw(b"PK"), "", "of no kind that is known here: .*.csv"),
    ("broken.jsonl", written('{"text": "a", "label": 1}', '{"text": "b", "lab', '{"text": "c", "label": 1}'), "",
     "line 2 is no JSON"),
    ("list.jsonl", json_lines([1, 2], [3, 4]), "", "no JSON|entry 1 is 1"),
    ("scalars.json", written("[1, 2]"), "", "entry 1 is '1', and each must be an object"),
    ("deep.json", raw(b'[{"a":' + b"[" * 100_000), "", "nested too deeply|no JSON"),
    ("nested.jsonl", json_lines(*({"text": {"de": "x"}, "label": i % 2} for i in range(60))), "--text-column text",
     "'text' holds no texts"),
    ("nested_label.jsonl", json_lines(*({"text": f"t {i}", "label": {"a": i}} for i in range(60))),
     "--label-column label", "holds no plain values"),
    ("lengths.jsonl", json_lines(*({"words": ["a", str(i)], "tags": ["O"]} for i in range(60))), "",
     "no usable row is left.*60 not a tag for each word"),
    ("half.conll", written("EU B-ORG", "rejects"), "", "line 2 must hold a word and its tag, and is 'rejects'"),
    ("cut.parquet", cut_parquet, "", "no Parquet file, or damaged"),
    ("csv.parquet", written(*GOOD), "", "no Parquet file, or damaged"),
    ("pairs.csv", frame(text=texts, label=[0, 1] * 30), "--work generation", "generation needs two columns of texts"),
    ("hollow", folder(lambda place: None), "", "no images in folders of classes"),
    ("loose", folder(loose_image), "", "lie in no folder of a class"),
    ("table_inside", folder(table_in_folder), "", "but reviews.csv: name that file"),
    ("no_images", images(b"this is no image"), "", "none of its 40 images can be read"),
    ("cut_images", images(b""), "", "none of its 40 images can be read.*decoded"),
    ("bombs", bombs, "", "none of its 40 images can be read"),
    ("one_folder", images(None, classes=1), "", "all labels in 'label' are 'class0'"),
    ("hf:no/such-data-set", lambda file: None, "", "not here and cannot be fetched.*hf download no/such-data-set"),
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "kept"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Where another test has imported these already, they do not look at the environment any more.
    for name, value in (("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("datasets.config", "HF_HUB_OFFLINE")):
        if name in sys.modules:
            monkeypatch.setattr(sys.modules[name], value, True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "make", "options", "says"), BROKEN, ids=[name for name, *_ in BROKEN])
def test_broken_data_is_one_line(place: Path, called: Called, name: str, make: Make, options: str, says: str) -> None:
    make(place / name)
    if name == "secret.csv" and os.access(place / name, os.R_OK):
        pytest.skip("the superuser reads everything")
    before = {path for path in place.rglob("*") if not path.is_symlink()}
    code, out, err = called("data", "check", name, *options.split())
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1, err
    assert re.search(says, err), err
    assert {path for path in place.rglob("*") if not path.is_symlink()} == before, "nothing is written"


def test_every_command_says_so(place: Path, called: Called, command: Command) -> None:
    written(*GOOD[:9])(place / "few.csv")
    (place / "own.toml").write_text('question = "?"\nmodels = ["mlp"]\n[data]\nfile = "few.csv"\n')
    for line in ("init few.csv", "launch --grid smoke --data few.csv", "launch --grid own.toml"):
        code, out, err = called(*line.split())
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert "few.csv has 8 usable rows" in err
        assert not (place / "kept").exists()
        assert not (place / "results").exists()
    done = command("sweeper", "launch", "--grid", "smoke", "--data", "few.csv")
    assert (done.returncode, done.stderr) == (2, err.replace("own.toml: ", "")), "the same from a shell"
