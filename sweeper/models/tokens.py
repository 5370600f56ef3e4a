"""From rows of words to token ids, with labels aligned to the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sweeper.models.base import Encode, NotApplicableError
from sweeper.work import IGNORED

MAX_TOKENS = 64


def tag_encoder(tokenizer: Any, name: str) -> Encode:
    """Return what turns sentences, tuples of words, and the tags of their words into token ids and their tags.

    The first piece of a word carries its tag; further pieces, special tokens and padding are `IGNORED`. Sentences are
    cut at `MAX_TOKENS`: the words beyond are neither trained on nor scored (column ``test_words_cut``).

    Args:
        tokenizer: One of transformers' that pads on the right.
        name: The model's, for messages.

    Raises:
        NotApplicableError: the tokenizer does not tell which word a piece is of.
    """
    if not tokenizer.is_fast:
        raise NotApplicableError(f"{name} has a slow tokenizer, which does not tell which word a piece is of")

    def encode(texts: Sequence[Any], y: Tensor) -> tuple[Tensor, Tensor]:
        found = tokenizer(
            [list(words) for words in texts],
            is_split_into_words=True,
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        ids = found["input_ids"]
        labels = torch.full_like(ids, IGNORED)
        for row in range(len(ids)):
            before = None
            for place, word in enumerate(found.word_ids(row)):
                if word is not None and word != before:
                    labels[row, place] = y[row, word]
                before = word
        return ids, labels

    return encode
