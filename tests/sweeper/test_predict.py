"""An adapter's folder is enough to ask it, and it answers as the trial that made it did."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweeper.adapters import load_adapter, opened
from sweeper.answers import Predicted, predict
from sweeper.predict import Predictor, load, load_all
from sweeper.signature import Signature
from sweeper.tasks import TaskData
from sweeper.tasks.files import read_table
from sweeper.tasks.rows import load as load_rows
from sweeper.trial import run_pack, untrained
from tests import asked, small
from tests.conftest import Called

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("asked")
        patch.setenv("SWEEPER_DATA", str(folder / "kept"))
        yield folder


@pytest.fixture(scope="module")
def bert(place: Path) -> str:
    return asked.bert(place / "bert")


def of_trial(folder: Path) -> tuple[TaskData, Predicted]:
    """Return a trial's rows, and what its model says of the test rows, by the code that scored it."""
    with opened(folder) as found:
        assert found.facts
        trial = found.facts.trial
        assert trial
    base, data = untrained(trial, [trial.seed])
    return data, predict(load_adapter(folder, base), [data.splits["test"]])[0]


def without_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """Return what answers, on a machine that has the folder and the base model, and never had the rows."""
    monkeypatch.setenv("SWEEPER_DATA", str(folder / "nothing"))
    return load(folder)


@pytest.mark.parametrize("strategy", ["lora", "full", "adapter"])
def test_texts_get_the_labels_and_probabilities_of_the_trial(
    place: Path, bert: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = asked.sentiment(place / f"mood-{strategy}", bert, strategy)
    data, wanted = of_trial(folder)
    predictor = without_rows(folder, monkeypatch)
    found = predictor.predict(data.splits["test"].texts)
    assert [one["label"] for one in found] == [("kind", "unkind")[number] for number in wanted.predicted]
    assert [one["score"] for one in found] == wanted.confidence, "bit for bit"
    alone = [predictor.predict([text])[0]["score"] for text in data.splits["test"].texts]
    assert alone == pytest.approx(wanted.confidence, abs=1e-5)
    if strategy == "full":  # transformers itself knows the names too
        assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "kind", "1": "unkind"}


def test_numbers_come_in_the_targets_own_unit_from_columns_as_they_stand(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = asked.prices(place / "prices")
    data, wanted = of_trial(folder)
    table = read_table(str(place / "prices.csv"))
    rows = load_rows(next((place / "kept" / "own").glob("prices*.parquet")))
    predictor = without_rows(folder, monkeypatch)
    given = [
        dict(zip(("age", "colour"), row, strict=True)) for row in zip(*list(table.columns.values())[:2], strict=True)
    ]
    found = np.array([one["value"] for one in predictor.predict(given)])
    by_list = [one["value"] for one in predictor.predict([[float(r["age"]), r["colour"]] for r in given])]
    assert by_list == found.tolist()
    assert data.features is not None
    x = data.features.standardised(rows.inputs)
    test = [int(np.flatnonzero((x == row.numpy()).all(1))[0]) for row in data.splits["test"].x]
    assert found[test] == pytest.approx(data.zero + data.unit * np.array(wanted.predicted), abs=1e-4)
    assert np.corrcoef(found, [float(n) for n in table.columns["target"]])[0, 1] > 0.5, "in the target's direction"
    assert abs(found.mean() - np.mean([float(n) for n in table.columns["target"]])) < 20, "and on its scale"


def test_images_are_read_as_they_were_for_training(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    folder = asked.pictures(place / "pictures")
    data, wanted = of_trial(folder)
    rows = load_rows(next((place / "kept" / "own").glob("images*.parquet")))
    predictor = without_rows(folder, monkeypatch)
    files = sorted((place / "images").rglob("*.png"))
    found = predictor.predict(files)
    x = torch.from_numpy(rows.inputs.copy()).movedim(-1, 1) / 255
    test = [int((x == row).flatten(1).all(1).nonzero()[0]) for row in data.splits["test"].x]
    assert [found[i]["score"] for i in test] == pytest.approx(wanted.confidence, abs=1e-6)
    in_colour = io.BytesIO()
    with Image.open(files[0]) as image:
        image.convert("RGB").save(in_colour, "PNG")
    assert predictor.predict([in_colour.getvalue()])[0] == pytest.approx(found[0]), "made grey, as all were"


def test_words_are_tagged(place: Path, bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = asked.tagged(place / "tags", bert)
    data, wanted = of_trial(folder)
    predictor = without_rows(folder, monkeypatch)
    found = predictor.predict(data.splits["test"].texts)
    assert [[word["label"] for word in one["words"]] for one in found] == wanted.predicted
    assert [word["word"] for word in predictor.predict(["a dull films"])[0]["words"]] == ["a", "dull", "films"]
    long = predictor.predict(["dull " * 200])[0]["words"]
    assert len(long) == 62, "as far as it reads: 64 tokens, two of them signs"


def test_answers_are_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sacrebleu")
    from sweeper.generation import greedy

    folder = asked.answers(place / "answers")
    data, _ = of_trial(folder)
    with opened(folder) as opening:
        assert opening.facts
        trial = opening.facts.trial
    assert trial
    base, _ = untrained(trial, [0])
    prompts = [prompt for prompt, _ in data.splits["test"].texts][:3]
    (wanted,) = greedy(load_adapter(folder, base), prompts, 96)
    assert [one["text"] for one in without_rows(folder, monkeypatch).predict(prompts)] == wanted


def test_a_source_model_is_found_again(tmp_path: Path) -> None:
    from sweeper.adapters import Keeper

    (row,) = run_pack([small.spec(rank=2)], {}, Keeper(tmp_path, overwrite=False, name="it"))
    data, wanted = of_trial(tmp_path / "it")
    predictor = load(tmp_path / "it")
    assert predictor.signature.has_source
    assert predictor.signature.label(3) == "3"
    assert [int(one) for one in data.splits["test"].y[:3]] == wanted.true[:3]
    with pytest.raises(ValueError, match="input 1: an image is read here, got 'x'"):
        predictor.predict(["x"])
    assert row.metrics["test_score"] > 0.5


def test_one_base_is_in_memory_once(place: Path, bert: str) -> None:
    folders = {name: asked.sentiment(place / f"shared-{name}", bert, steps=2) for name in "ab"}
    three = [(text, ("one", "two", "three")[i % 3]) for i, (text, _) in enumerate(asked.texts(5))]
    data = asked.write(place / "three.csv", ("text", "label"), three)
    folders["c"] = asked.adapter(place / "three", data, bert, steps=2)
    found = load_all(folders)
    of = {name: {p.data_ptr(): p for p in one.model.network.parameters()} for name, one in found.items()}
    base = sum(p.numel() for p in found["a"].model.network.parameters())
    together = sum(p.numel() for p in {**of["a"], **of["b"], **of["c"]}.values())
    assert together < 1.5 * base, "also with another number of classes"
    assert found["c"].predict(["a dull plot"])[0]["label"] in ("one", "two", "three")


def test_another_tokenizer_is_noticed(place: Path, bert: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    folder = asked.sentiment(tmp_path / "mood", asked.bert(model))
    load(folder)
    shutil.rmtree(model)
    asked.bert(model, "more words")
    load(folder)  # words that the fixed text has not
    vocabulary = (model / "vocab.txt").read_text().split("\n")
    vocabulary[1:3] = vocabulary[2:0:-1]
    (model / "vocab.txt").write_text("\n".join(vocabulary))
    for file in model.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="trained with another tokenizer"):
        load(folder)


def older(folder: Path) -> None:
    """Make a folder one from before signatures."""
    file = folder / "adapter_config.json"
    content = json.loads(file.read_text())
    del content["signature"]
    file.write_text(json.dumps(content))


def test_a_folder_from_before_asks_its_task(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = asked.prices(place / "older")
    before = load(folder).predict([{"age": 40, "colour": "red"}])
    older(folder)
    assert load(folder).predict([{"age": 40, "colour": "red"}]) == before
    with pytest.raises(ValueError, match=r"from before .* and its task is not here \(the rows of own:older-"):
        without_rows(folder, monkeypatch)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"work": "guessing"}, "signature: work is 'guessing'"),
        ({"input_shape": [10**6, 10**6]}, "signature: input_shape"),
        ({"n_classes": 10**12}, "signature: n_classes"),
        ({"labels": ["a"], "n_classes": 2}, "1 labels for 2 classes"),
        ({"zero": float("inf")}, "is not JSON: Infinity is no number"),
        ({"features": {"columns": {}, "mean": [0.0], "deviation": [1.0]}}, r"not the \(3,\) numbers"),
        ({"more": 1}, "no key named 'more'"),
    ],
)
def test_a_signature_from_a_stranger_is_checked(change: dict[str, Any], says: str, place: Path, tmp_path: Path) -> None:
    if not (place / "judged").exists():
        asked.prices(place / "judged")
    folder = Path(shutil.copytree(place / "judged", tmp_path / "it"))
    file = folder / "adapter_config.json"
    content = json.loads(file.read_text())
    content["signature"] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says):
        load(folder)


def test_a_signature_survives_json(place: Path) -> None:
    if not (place / "judged").exists():
        asked.prices(place / "judged")
    signature = load(place / "judged").signature
    assert Signature.from_dict(json.loads(json.dumps(signature.to_dict())), "it") == signature


@pytest.fixture
def mood(place: Path, bert: str) -> Path:
    return place / "mood" if (place / "mood").exists() else asked.sentiment(place / "mood", bert)


def test_the_command(mood: Path, called: Called, tmp_path: Path) -> None:
    code, out, _ = called("predict", str(mood), "a lovely film", "a dull plot", "--format", "json")
    assert code == 0
    content = json.loads(out)
    assert content["predictions"] == load(mood).predict(["a lovely film", "a dull plot"])
    file = tmp_path / "new.csv"
    file.write_text('text\n"a lovely, warm film"\na dull plot\n')
    code, out, _ = called("predict", str(mood), "--data", str(file))
    assert code == 0
    assert re.search(r"^\w+ +0\.\d{4} +a lovely, warm film$", out, re.MULTILINE)
    assert len(out.splitlines()) == 3


Line = Callable[[Path], list[str]]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (lambda mood: [str(mood)], "give either inputs"),
        (lambda mood: [str(mood), ""], "input 1: a text is read here, got ''"),
        (
            lambda mood: [str(mood), "a \udcff"],
            r"input 1: a text is read here, got 'a .udcff': .* whole signs",
        ),
        (lambda mood: [str(mood), "x", "--text-column", "a"], "are for --data DATA"),
        (lambda mood: [str(mood.parent), "x"], "holds neither adapter_config.json nor model.safetensors"),
        (lambda mood: [str(mood), "--data", "none.csv"], "there is no file or folder 'none.csv'"),
        (
            lambda mood: [str(mood), "--data", str(mood.with_suffix(".csv")), "--text-column", "txt"],
            "'txt'.*mean 'text'",
        ),
        (lambda mood: [str(mood.with_name("prices")), "hello"], "a row of a table is JSON here"),
        (lambda mood: [str(mood.with_name("prices")), '{"age": 1}'], "'colour' is None, and in training it was one of"),
        (lambda mood: [str(mood.with_name("prices")), '["x", "red"]'], "'age' must be a finite number, got 'x'"),
        (lambda mood: [str(mood.with_name("prices")), '{"agee": 1}'], "no column 'agee': columns are age, colour"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(line: Line, says: str, mood: Path, called: Called) -> None:
    if not mood.with_name("prices").exists():
        asked.prices(mood.with_name("prices"))
    code, out, error = called("predict", *line(mood))
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"Error: .*{says}.*\n", error)
