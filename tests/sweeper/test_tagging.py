"""Tags of words: how they are read, aligned with pieces of words, trained by every strategy, and scored."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sweeper.fetch import _take
from sweeper.metrics import METRICS
from sweeper.models import LoadedModel, find_model
from sweeper.models.base import NotApplicableError, UnavailableError, seeded
from sweeper.spec import Status, TrainArgs, TrialResult, TrialSpec
from sweeper.strategies import STRATEGIES, hparams_of
from sweeper.tasks import TASKS, Split, TaskData
from sweeper.tasks.parts_of_speech import stem
from sweeper.tasks.rows import load, metric_of, save, split_rows
from sweeper.tasks.tags import iob2, read_columns, tagged_rows
from sweeper.train import train_pack
from sweeper.trial import run_pack
from sweeper.work import IGNORED, TAGGING
from tests import small

pytest.importorskip("transformers")
pytest.importorskip("seqeval")
import transformers
from seqeval import metrics as seqeval

from sweeper.models.huggingface import anatomy
from sweeper.models.tokens import MAX_TOKENS, tag_encoder
from tests.families import CONFIGS, END, PAD, START

COLUMNS = """-DOCSTART- -X- O O

Ada NNP I-PER
Lovelace NNP I-PER
met VBD O
Charles NNP I-PER
Babbage NNP I-PER
in IN O
London NNP I-LOC
. . O

Paris NNP I-LOC
Rome NNP B-LOC
-DOCSTART- -X- O O
Nobody NN O
came VBD O

Paris NNP O
Rome NNP O
"""


def sentences(n: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Different sentences of short and long words, a few of which are names."""
    kinds = {"ada": "B-PER", "lovelace": "I-PER", "london": "B-LOC", "sat": "O", "unbelievable": "O", "in": "O"}
    rng = torch.Generator().manual_seed(0)
    drawn: dict[tuple[str, ...], tuple[str, ...]] = {}
    while len(drawn) < n:
        length = int(torch.randint(2, 12, (1,), generator=rng))
        words = tuple([*kinds][i] for i in torch.randint(len(kinds), (length,), generator=rng))
        drawn[words] = iob2([kinds[word] for word in words])
    return [*drawn.items()]


@dataclass(frozen=True)
class Names:
    name: str = "names"
    summary: str = "a few sentences of our own"
    metric: str = "entity_f1"
    n_train: int = 20

    def load(self, seed: int, n_train: int) -> TaskData:
        long = (("ada", "sat", *["in"] * 100), ("B-PER", *["O"] * 101))
        return split_rows(tagged_rows([*sentences(60), long]), self.name, seed, n_train)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT that knows few pieces of words."""
    folder = tmp_path_factory.mktemp("bert")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "love", "##lace", "london", "sat", "in", "un"]
    (folder / "vocab.txt").write_text("\n".join([*pieces, "##believ", "##able"]))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(**size, vocab_size=14, max_position_embeddings=128, initializer_range=0.2)
    seeded(0, lambda: transformers.BertModel(config)).save_pretrained(folder)
    return folder


def test_columns_are_read_and_entities_marked_in_one_way(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(COLUMNS)
    rows = tagged_rows(read_columns(tmp_path / "a.conll"))
    assert rows.inputs == (
        ("Ada", "Lovelace", "met", "Charles", "Babbage", "in", "London", "."),
        ("Paris", "Rome"),
        ("Nobody", "came"),
    )
    assert rows.names == ("O", "B-LOC", "B-PER", "I-PER")
    assert [[rows.names[tag] for tag in row] for row in rows.labels] == [
        ["B-PER", "I-PER", "O", "B-PER", "I-PER", "O", "B-LOC", "O"],
        ["B-LOC", "B-LOC"],
        ["O", "O"],
    ]
    save(rows, tmp_path / "rows.parquet")
    again = load(tmp_path / "rows.parquet")
    assert (again.inputs, again.labels, again.names) == (rows.inputs, rows.labels, rows.names)
    (tmp_path / "bad.conll").write_text("Ada B-PER\nLovelace\n")
    with pytest.raises(ValueError, match=r"bad.conll, line 2: 'Lovelace' has no tag"):
        read_columns(tmp_path / "bad.conll")


@given(st.lists(st.tuples(st.sampled_from(["", "PER", "LOC"]), st.integers(1, 3)), min_size=1))
def test_every_scheme_becomes_the_same_tags(spans: list[tuple[str, int]]) -> None:
    schemes: dict[str, list[str]] = {name: [] for name in ("IOB2", "IOB1", "BIOES", "BILOU")}
    before = ""
    for kind, length in spans:
        marks = {
            "IOB2": "B" + "I" * (length - 1),
            "IOB1": ("B" if kind == before else "I") + "I" * (length - 1),
            "BIOES": "S" if length == 1 else "B" + "I" * (length - 2) + "E",
            "BILOU": "U" if length == 1 else "B" + "I" * (length - 2) + "L",
        }
        for scheme, tags in schemes.items():
            tags += [f"{mark}-{kind}" for mark in marks[scheme]] if kind else ["O"] * length
        before = kind
    for tags in schemes.values():
        assert list(iob2(tags)) == schemes["IOB2"]


def test_bare_tags_are_entities_only_where_something_is_outside() -> None:
    assert iob2(["PER", "PER", "O", "LOC"]) == ("B-PER", "I-PER", "O", "B-LOC")
    bare = tagged_rows([(("a", "dog"), ("DET", "NOUN"))])
    assert bare.names == ("DET", "NOUN")
    assert metric_of(bare) == "token_accuracy"
    assert METRICS["token_accuracy"].compute([["DET", "NOUN"], ["DET"]], [["DET", "DET"], ["DET"]]) == 2 / 3  # type: ignore[misc]


def test_parts_of_speech_are_cut_to_their_stem() -> None:
    tags = ["nn-tl", "fw-in+at", "ppss+bez", "md*", "nn$-tl", "*", "--", ",-hl", "``"]
    assert [stem(tag) for tag in tags] == ["nn", "in", "ppss", "md", "nn", "*", "--", ",", "``"]


def test_a_pattern_takes_several_files_of_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("b/02", "b/01", "b/contents"):
            archive.writestr(name, name[-2:])
    _take(tmp_path / "a.zip", "b/??", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "0102"
    with pytest.raises(ValueError, match=r"a.zip holds no c/\?"):
        _take(tmp_path / "a.zip", "c/??", tmp_path / "out")


def test_whole_entities_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="pip install"):
        Names().load(0, 20)


def test_the_first_piece_of_a_word_carries_its_tag(folder: Path) -> None:
    model = find_model(f"hf:{folder}")((), 3, 0, TAGGING)
    assert model.encode is not None
    texts = [("ada", "lovelace", "unbelievable", "sat"), ("london",), ("sat",) * 100]
    y = torch.full((3, 100), IGNORED)
    y[0, :4], y[1, 0], y[2] = torch.tensor([0, 1, 2, 0]), 1, 2
    ids, labels = model.encode(texts, y)
    # [CLS] ada love ##lace un ##believ ##able sat [SEP]
    assert labels[0, :9].tolist() == [IGNORED, 0, 1, IGNORED, 2, IGNORED, IGNORED, 0, IGNORED]
    assert labels[1, :3].tolist() == [IGNORED, 1, IGNORED]
    assert (labels[:2, 9:] == IGNORED).all()
    assert ids.shape == (3, MAX_TOKENS), "long sentences are cut"
    assert (labels[2] == 2).sum() == MAX_TOKENS - 2
    assert model.logits(ids[:2]).shape == (1, 2, 9, 3), "columns of padding are left out"
    torch.testing.assert_close(model.logits(ids[:2])[0, 1, :3], model.logits(ids[1:2])[0, 0], rtol=1e-4, atol=1e-5)


def test_what_cannot_tag_is_refused(folder: Path, tmp_path: Path) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(NotApplicableError, match="this has a slow tokenizer"):
        tag_encoder(Slow(), "this")
    for family in ("gpt2", "t5"):
        config, values = CONFIGS[family]
        getattr(transformers, config)(**values).save_pretrained(tmp_path / family)
        with pytest.raises(NotApplicableError, match="is no encoder"):
            find_model(f"hf:{tmp_path / family}")((), 3, 0, TAGGING)


def tagger(family: str, seeds: Sequence[int]) -> LoadedModel:
    config, values = CONFIGS[family]
    config = getattr(transformers, config)(**values, num_labels=4)
    hf = seeded(0, lambda: transformers.AutoModelForTokenClassification.from_config(config))
    loaded = anatomy(hf, (), name=family, work=TAGGING)
    loaded.work, loaded.labels, loaded.seeds = TAGGING, ("O", "B-PER", "I-PER", "B-LOC"), tuple(seeds)
    return loaded


def tokens() -> Split:
    """Rows of unequal length, of which every third token has no tag, and whose tag is the token's remainder."""
    x = torch.randint(0, START, (12, 9), generator=torch.Generator().manual_seed(0))
    x[:, 0] = START
    y = x % 4
    y[:, ::3] = IGNORED
    for row, length in enumerate(torch.arange(12) % 5 + 4):
        x[row, length:], y[row, length:] = PAD, IGNORED
        x[row, length - 1], y[row, length - 1] = END, IGNORED
    return Split(x, y)


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        pytest.param(family, strategy, marks=[] if family == "bert" else pytest.mark.slow)
        for family in ("bert", "roberta", "distilbert")
        for strategy in STRATEGIES
        if strategy not in small.LEFT_OUT_OF_FAMILIES[family]
    ],
)
def test_every_strategy_tags_in_packs_as_alone(family: str, strategy: str) -> None:
    split = tokens()

    def trained(numbers: Sequence[int]) -> LoadedModel:
        loaded = tagger(family, [5 + k for k in numbers])
        rate = small.LEARNS_AT.get(strategy, 1e-2)
        args = [TrainArgs(lr=rate / (k + 1), batch_size=12, steps=6) for k in numbers]
        rows = [split] * len(numbers)
        chosen = small.strategies(strategy, numbers)
        for member in train_pack(loaded, chosen, args, rows, rows, "entity_f1", {"source_train": split}):
            assert member.curve[-1]["train_loss"] < member.curve[0]["train_loss"]
        return loaded

    before = tagger(family, [0]).logits(split.x)[0]
    pack = trained([0, 1])
    packed = pack.logits(torch.cat([split.x] * 2))
    assert packed.shape == (2, *before.shape), "virtual tokens are cut off"
    words = split.y[:, : before.shape[1]] != IGNORED
    for k in (0, 1):
        alone = trained([k])
        logits = alone.logits(split.x)[0]
        torch.testing.assert_close(packed[k][words], logits[words], rtol=1e-3, atol=1e-4)
        merged = alone.merged(0)
        assert (merged is None) == (strategy in small.STAYS_BESIDE)
        if merged is not None:
            torch.testing.assert_close(merged(split.x)[words], logits[words], rtol=1e-4, atol=1e-4)
    if pack.can_switch_off:
        pack.switch(False)
        torch.testing.assert_close(pack.logits(torch.cat([split.x] * 2))[0][words], before[words])


def test_a_trial_tells_what_seqeval_tells_of_its_predictions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "names", Names())
    name = f"hf:{folder}"
    spec = TrialSpec(name, "names", 20, "full", hparams_of(STRATEGIES["full"]()), TrainArgs(lr=1e-2, steps=12), 3)
    kept: list[LoadedModel] = []

    def keep(base: LoadedModel, model: LoadedModel, member: int, row: TrialResult, data: TaskData) -> None:
        kept.append(model)

    (row,) = run_pack([spec], {}, keep)
    assert row.status is Status.COMPLETE, row.error
    assert row.context["metric"] == "entity_f1"
    # The oracle: sentence by sentence, without padding, words found by their text.
    data = Names().load(3, 20)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    true, predicted, cut = [], [], 0
    for words, y in zip(data.splits["test"].texts, data.splits["test"].y, strict=True):
        firsts, ids = [], [tokenizer.cls_token_id]
        for word in words:
            firsts.append(len(ids))
            ids += tokenizer(word, add_special_tokens=False)["input_ids"]
        firsts = [place for place in firsts if place < MAX_TOKENS - 1]
        cut += len(words) - len(firsts)
        ids = [*ids[: MAX_TOKENS - 1], tokenizer.sep_token_id]
        found = kept[0].network(torch.tensor([ids]))[0].argmax(-1)
        true.append([data.labels[int(tag)] for tag in y[: len(firsts)]])
        predicted.append([data.labels[int(found[place])] for place in firsts])
    want: dict[str, Any] = {
        "test_score": seqeval.f1_score(true, predicted),
        "test_precision": seqeval.precision_score(true, predicted),
        "test_recall": seqeval.recall_score(true, predicted),
        "test_token_accuracy": seqeval.accuracy_score(true, predicted),
        "test_words_cut": cut,
    }
    assert 0 < want["test_score"] < 1
    assert cut == 40, "the long sentence is among them"
    assert {key: row.metrics[key] for key in want} == pytest.approx(want)
