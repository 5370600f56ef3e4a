"""Small fine-tuned models of every kind, from files as users have them, for tests of what asks them."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.adapters import Keeper
from sweeper.models.base import seeded
from sweeper.spec import TrainArgs, TrialSpec
from sweeper.strategies import STRATEGIES, hparams_of
from sweeper.tasks.columns import Asked
from sweeper.tasks.own import prepare
from sweeper.trial import run_pack

N = 60
GOOD, BAD = ("lovely", "great", "warm", "funny", "moving"), ("dull", "awful", "flat", "boring", "weak")
NOUNS = ("film", "plot", "cast", "scene", "music", "ending")
SIGNS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def bert(folder: Path, more: str = "") -> str:
    """Write a small BERT with random weights and a vocabulary, and return its name as a model."""
    import transformers

    folder.mkdir(exist_ok=True)
    words = [*SIGNS, *GOOD, *BAD, *NOUNS, "a", "with", "and", "##s", *map(str, range(10)), *more.split()]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.BertConfig(**size, vocab_size=60, pad_token_id=0, initializer_range=0.2)
    seeded(0, lambda: transformers.BertModel(config)).save_pretrained(folder)
    return f"hf:{folder}"


def texts(seed: int) -> list[tuple[str, bool]]:
    """Return sentences, and whether each is kind."""
    rng = random.Random(seed)
    return [
        (f"a {rng.choice(GOOD if i % 2 else BAD)} {rng.choice(NOUNS)} with a {rng.choice(NOUNS)} {i}", bool(i % 2))
        for i in range(N)
    ]


def write(file: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    return str(file)


def adapter(folder: Path, data: str, model: str, strategy: str = "lora", steps: int = 12, **asked: Any) -> Path:
    """Train a strategy on own data and return the folder of what it learned."""
    prepared = prepare(Asked(data, **asked))
    hparams = hparams_of(STRATEGIES[strategy](**({"rank": 2} if strategy == "lora" else {})))
    args = TrainArgs(lr=1e-2, batch_size=8, steps=steps)
    keeper = Keeper(folder.parent, overwrite=False, name=folder.name)
    (row,) = run_pack([TrialSpec(model, prepared.task, 30, strategy, hparams, args, 0)], {}, keeper)
    assert keeper.refused is None, keeper.refused
    assert row.status == "complete", row.error
    return folder


def sentiment(folder: Path, model: str, strategy: str = "lora", names: tuple[str, str] = ("unkind", "kind")) -> Path:
    """Return an adapter that tells kind sentences from unkind ones."""
    rows = [(text, names[kind]) for text, kind in texts(0)]
    return adapter(folder, write(folder.with_suffix(".csv"), ("text", "label"), rows), model, strategy)


def prices(folder: Path) -> Path:
    """Return an adapter that tells a number from a number and a colour."""
    rng = np.random.default_rng(0)
    rows = [(round(float(rng.normal(40, 10)), 3), ("red", "blue")[i % 2]) for i in range(N)]
    priced = [(age, colour, round(3 * age + 20 * (colour == "red"), 3)) for age, colour in rows]
    return adapter(folder, write(folder.with_suffix(".csv"), ("age", "colour", "target"), priced), "mlp", steps=60)


def tagged(folder: Path, model: str) -> Path:
    """Return an adapter that tags words."""
    file = folder.with_suffix(".conll")
    kinds = {**dict.fromkeys(NOUNS, "NOUN"), **dict.fromkeys((*GOOD, *BAD), "ADJ")}
    file.write_text(
        "\n\n".join("\n".join(f"{word} {kinds.get(word, 'X')}" for word in text.split()) for text, _ in texts(1))
    )
    return adapter(folder, str(file), model)


def answers(folder: Path) -> Path:
    """Return an adapter that writes."""
    rows = [(text, "thanks" if kind else "sorry") for text, kind in texts(2)]
    data = write(folder.with_suffix(".csv"), ("prompt", "answer"), rows)
    return adapter(folder, data, "tiny_gpt", text_column="prompt", label_column="answer", work="generation")


def pictures(folder: Path) -> Path:
    """Return an adapter that tells bright images from dark ones; the images lie beside it."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(N):
        pixels = rng.integers(0, 120, (14, 10), np.uint8) + (120 if i % 2 else 0)
        file = folder.with_name("images") / ("bright" if i % 2 else "dark") / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    return adapter(folder, str(folder.with_name("images")), "small_cnn", image_size=8)
