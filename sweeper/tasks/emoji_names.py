"""Writing tasks on the names that people gave to emoji in many languages (Unicode CLDR, inside the package emoji)."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import torch

from sweeper.models.base import UnavailableError, derived_seed
from sweeper.spec import TrainArgs
from sweeper.tasks.base import Split, TaskData, stratified
from sweeper.work import GENERATION

FIELDS = "fields"
LANGUAGES = {"en": "English", "es": "Spanish", "pt": "Portuguese", "it": "Italian", "de": "German"}
LONGEST = 64  # bytes of a prompt or an answer: padding costs what text costs
NAMES_SHA256 = "5c16c5ede70edbb71997494b5ede8f8c6b41dfa47c05f3baba82b3e35c9b0f33"
LATEST = 14  # version of Unicode: what Python 3.11 has the characters' own names of

TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}
JOINER, AS_PICTURE = "\u200d", "\ufe0f"
SEXES = {"\u2640", "\u2642"}
PERSONS = {chr(code) for code in (0x1F466, 0x1F467, 0x1F468, 0x1F469, 0x1F9D1, 0x1F9D2, 0x1F9D3, 0x1F474, 0x1F475)}


@dataclass(frozen=True)
class Emoji:
    """One emoji.

    Attributes:
        names: Language -> what people call it; ``FIELDS`` -> Unicode's names of the characters that it is made of.
        group: The same for all skin tones of one, and its forms for women, men and both.
        kind: 1 for flags, 2 for what has skin tones, else 0.
    """

    names: dict[str, str]
    group: str
    kind: int

    def row(self, read: str, to: str) -> tuple[str, str]:
        """Return a prompt, as one name, and its answer, another."""
        return f"{LANGUAGES[to]}: {self.names[read]}", self.names[to]


@lru_cache(maxsize=1)
def emojis() -> tuple[Emoji, ...]:
    """Return all emoji with at most one skin tone, each once.

    Raises:
        UnavailableError: the package is missing.
        ValueError: it has other names than those known here.
    """
    try:
        import emoji
    except ImportError:
        raise UnavailableError("this task needs its rows, a package: pip install 'sweeper-advisor[data]'") from None
    for language in LANGUAGES:
        emoji.config.load_language(language)
    variants: dict[str, list[str]] = {}
    for text, known in emoji.EMOJI_DATA.items():
        if known["status"] == emoji.STATUS["fully_qualified"] and known["E"] <= LATEST:
            plain = "".join(sign for sign in text if sign not in TONES and sign != AS_PICTURE)
            if sum(sign in TONES for sign in text) < 2:
                variants.setdefault(plain, []).append(text)
    found: dict[str, Emoji] = {}
    for plain, texts in sorted(variants.items()):
        parts = [part for part in plain.split(JOINER) if part not in SEXES]
        group = JOINER.join("person" if part in PERSONS else part for part in parts)
        for text in sorted(texts):
            names = {code: emoji.EMOJI_DATA[text][code].strip(":").replace("_", " ") for code in LANGUAGES}
            fields = [unicodedata.name(sign).lower() for sign in text if sign not in (JOINER, AS_PICTURE)]
            names[FIELDS] = " | ".join(fields)
            flag = fields[0].startswith("regional indicator")
            found.setdefault(names["en"].casefold(), Emoji(names, group, 1 if flag else 2 * (len(texts) > 1)))
    digest = hashlib.sha256(repr([*found.values()]).encode()).hexdigest()
    if digest != NAMES_SHA256:
        raise ValueError(f"the package emoji {emoji.__version__} has other names ({digest}): pip install emoji==2.16.0")
    return tuple(found.values())


@dataclass(frozen=True)
class EmojiNames:
    """Write one name of an emoji, told another: an instruction with its answer, or fields with a text about them.

    A group of emoji is in one split alone. Skin tones are kept: their names come back in other splits, beside other
    emoji, and are what a tiny network can learn from so few rows; what a word that it never saw means, it cannot.

    Attributes:
        source: Which names are read and written in the source domain.
        target: The same in the target domain.
    """

    name: str
    summary: str
    source: tuple[tuple[str, str], ...]
    target: tuple[tuple[str, str], ...]
    metric: str = "inverse_perplexity"
    n_train: int = 200
    pool: int = 300
    valid: int = 100
    test: int = 250
    source_test: int = 60
    pretrain_steps: int = 700

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid" and "test", and "source_train" and "source_test" of other languages."""
        if not 2 <= n_train <= self.pool:
            raise ValueError(f"{self.name} has 2 to {self.pool} training rows to give, not {n_train}")
        groups: dict[str, list[Emoji]] = {}
        pairs = (*self.source, *self.target)
        for emoji in emojis():
            if max(len(text.encode()) for pair in pairs for text in emoji.row(*pair)) > LONGEST:
                continue
            groups.setdefault(emoji.group, []).append(emoji)
        whole = [*groups.values()]
        rng = np.random.default_rng(derived_seed(seed, self.name))
        # Each group has at least one row: these many groups have at least these many rows.
        sizes = [self.pool, self.valid, self.test, self.source_test]
        parts = stratified(np.array([group[0].kind for group in whole]), [*sizes, len(whole) - sum(sizes)], rng)
        rows = [[*chain.from_iterable(whole[number] for number in part)] for part in parts]
        train, valid, test, source_test, source_train = rows
        splits = {
            "train": self._split(train[:n_train], self.target),
            "valid": self._split(_by_length(valid[: self.valid]), self.target),
            "test": self._split(_by_length(test[: self.test]), self.target),
            "source_train": self._split(source_train, self.source),
            "source_test": self._split(_by_length(source_test), self.source),
        }
        return TaskData(
            splits,
            n_classes=0,
            pretrain=TrainArgs(lr=5e-3, batch_size=16, steps=self.pretrain_steps),
            context={"modality": "text", "metric": self.metric},
            work=GENERATION,
        )

    def _split(self, emoji: Sequence[Emoji], pairs: Sequence[tuple[str, str]]) -> Split:
        texts = tuple(one.row(*pair) for one in emoji for pair in pairs)
        return Split(torch.empty(len(texts), 0), torch.empty(len(texts), 0, dtype=torch.int64), texts)


def _by_length(emoji: Sequence[Emoji]) -> list[Emoji]:
    """Return texts of like length side by side: batches that are scored need little padding."""
    return sorted(emoji, key=lambda one: len(one.names["en"]))


EMOJI_TASKS = (
    EmojiNames(
        "emoji_names",
        "write an emoji's Italian name, told its Spanish one (names inside the package emoji)",
        source=(("es", "pt"), ("pt", "es")),
        target=(("es", "it"),),
    ),
    EmojiNames(
        "emoji_fields",
        "write an emoji's German name, told the characters that it is made of (names inside the package emoji)",
        source=((FIELDS, "en"),),
        target=((FIELDS, "de"),),
    ),
)
