"""Language models that write answers to prompts: tiny ones on bytes, and any of transformers (``hf:NAME``).

Causal networks (GPT-2, Llama, ...) read ``prompt answer`` in one row, encoder-decoders (T5, BART, ...) the prompt in
the encoder and the answer in the decoder. Either way ``outputs[:, t]`` predicts ``y[:, t]``, and only the answer's
tokens and the end after them have a label.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.models import huggingface
from sweeper.models.base import (
    TEXTS,
    Encode,
    KeyValues,
    LoadedModel,
    ModelBuilder,
    NoKeyValues,
    NotApplicableError,
    Writing,
    check_work,
    kind,
    seeded,
)
from sweeper.models.huggingface import import_transformers, read_roles
from sweeper.work import CLASSIFICATION, GENERATION, IGNORED

MAX_PROMPT, MAX_ANSWER = 96, 96
"""Tokens of a prompt, and of an answer with its end, beyond which they are cut."""


@dataclass(frozen=True)
class Vocabulary:
    """How texts become token ids and come back.

    Attributes:
        prompt: The ids of a prompt, with what must stand between it and an answer.
        answer: The ids of an answer, the end after them included.
        text: The text of ids without such signs.
        pad: The id that fills rows.
        ends: Ids after which an answer is over.
    """

    prompt: Callable[[str], list[int]]
    answer: Callable[[str], list[int]]
    text: Callable[[Sequence[int]], str]
    pad: int
    ends: frozenset[int]


class CausalNetwork(nn.Module):
    """A causal language model on token ids padded on the right.

    No mask is needed: what comes before padding does not see it.
    """

    def __init__(self, hf: Any, pad: int) -> None:
        super().__init__()
        self.hf: Any = hf
        self.pad = pad
        self.key_values: nn.Module = NoKeyValues()

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids ``(batch, tokens)`` to logits ``(batch, used tokens, vocabulary)``."""
        ids = ids[:, : _used(ids, self.pad)]
        embedding = huggingface._token_table(self.hf)
        call: dict[str, Any] = {"input_ids": ids}
        if getattr(embedding, "virtual_tokens", 0):
            call = {"inputs_embeds": embedding(ids)}
        before = _cache(self.key_values(len(ids)))
        if before is not None:
            call["past_key_values"] = before
        return self.hf(**call, use_cache=False).logits[:, -ids.shape[1] :]  # virtual tokens predict nothing


class EncoderDecoderNetwork(nn.Module):
    """An encoder-decoder on rows of ``prompt, padded to MAX_PROMPT | what the decoder reads, padded``."""

    def __init__(self, hf: Any, pad: int) -> None:
        super().__init__()
        self.hf: Any = hf
        self.pad = pad
        self.key_values: nn.Module = NoKeyValues()

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids ``(batch, MAX_PROMPT + tokens)`` to logits ``(batch, used tokens, vocabulary)``."""
        prompt, answer = ids[:, :MAX_PROMPT], ids[:, MAX_PROMPT:]
        prompt, answer = prompt[:, : _used(prompt, self.pad)], answer[:, : _used(answer, self.pad)]
        mask = prompt != self.pad
        encoder = self.hf.get_encoder()
        embedding = huggingface._token_table(self.hf)
        read: dict[str, Any] = {"input_ids": prompt}
        if getattr(embedding, "virtual_tokens", 0):
            read = {"inputs_embeds": embedding(prompt)}
            mask = huggingface._ones_before(mask, read["inputs_embeds"].shape[1] - prompt.shape[1])
        call: dict[str, Any] = {"decoder_input_ids": answer, "attention_mask": mask.long()}
        call["encoder_outputs"] = encoder(**read, attention_mask=mask.long())
        before = _cache(self.key_values(len(ids)))
        if before is not None:
            from transformers import DynamicCache, EncoderDecoderCache

            call["past_key_values"] = EncoderDecoderCache(before, DynamicCache())
        return self.hf(**call, use_cache=False).logits


def _used(ids: Tensor, pad: int) -> int:
    """Return how many columns hold more than padding, at least 1."""
    used = (ids != pad).any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1


def _cache(before: Sequence[tuple[Tensor, Tensor]] | None) -> Any:
    if before is None:
        return None
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (key, value) in enumerate(before):
        cache.update(key, value, layer)
    return cache


def _padded(rows: Sequence[Sequence[int]], value: int, width: int = 0) -> Tensor:
    width = max([width, *map(len, rows)])
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _one_row(vocabulary: Vocabulary) -> tuple[Encode, Writing]:
    """Return how pairs of prompt and answer become rows of a causal network, and how it writes."""
    pad = vocabulary.pad

    def encode(texts: Sequence[Any], y: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [(vocabulary.prompt(prompt), vocabulary.answer(answer)) for prompt, answer in texts]
        x = _padded([[*prompt, *answer[:-1]] for prompt, answer in pairs], pad)
        return x, _padded([[*[IGNORED] * (len(prompt) - 1), *answer] for prompt, answer in pairs], IGNORED)

    def begin(prompts: Sequence[str], room: int) -> tuple[Tensor, Tensor]:
        rows = [vocabulary.prompt(prompt) for prompt in prompts]
        x = _padded(rows, pad)
        room_left = x.new_full((len(x), room), pad)
        return torch.cat([x, room_left], 1), torch.tensor([len(row) - 1 for row in rows])

    return encode, Writing(begin, 1, vocabulary.ends, pad, vocabulary.text)


def _two_rows(vocabulary: Vocabulary, start: int) -> tuple[Encode, Writing]:
    """Return the same for an encoder-decoder whose decoder begins with the token ``start``."""
    pad = vocabulary.pad

    def encode(texts: Sequence[Any], y: Tensor) -> tuple[Tensor, Tensor]:
        prompts = _padded([vocabulary.prompt(prompt) for prompt, _ in texts], pad, MAX_PROMPT)
        answers = [vocabulary.answer(answer) for _, answer in texts]
        read = _padded([[start, *answer[:-1]] for answer in answers], pad)
        return torch.cat([prompts, read], 1), _padded(answers, IGNORED)

    def begin(prompts: Sequence[str], room: int) -> tuple[Tensor, Tensor]:
        rows = _padded([[*vocabulary.prompt(prompt)] for prompt in prompts], pad, MAX_PROMPT)
        read = _padded([[start]] * len(rows), pad, 1 + room)
        return torch.cat([rows, read], 1), torch.zeros(len(rows), dtype=torch.int64)

    return encode, Writing(begin, MAX_PROMPT + 1, vocabulary.ends, pad, vocabulary.text)


def anatomy(
    hf: Any, vocabulary: Vocabulary, by_hand: dict[str, Any] | None = None, name: str = "this model"
) -> LoadedModel:
    """Return a language model of transformers with its parts named by role.

    Args:
        hf: The model, causal or an encoder-decoder.
        vocabulary: Its own.
        by_hand: What `read_roles` returns; it replaces what the structure says.
        name: For messages.

    Raises:
        NotApplicableError: the model sees what comes after a token.
        ValueError: the structure says too little, and no roles were named by hand.
    """
    by_hand = by_hand or {}
    huggingface._linears_for_conv1d(hf)
    two = bool(hf.config.is_encoder_decoder)
    blocks = huggingface._match(by_hand["blocks"], hf, name) if "blocks" in by_hand else huggingface._blocks(hf)
    paths = {id(module): path for path, module in hf.named_modules()}
    head = by_hand.get("head") or paths.get(id(hf.get_output_embeddings()))
    if not blocks or head is None:
        raise ValueError(
            f"{name} ({type(hf).__name__}) is of a family that is not known here: name its parts in a file "
            f"roles.toml beside its weights: head = 'path', blocks = ['path.*'], and under [roles] query = ['*.q_proj']"
        )
    if "roles" in by_hand:
        roles = {path: role for role, found in by_hand["roles"].items() for path in huggingface._match(found, hf, name)}
    else:
        roles = {path: role for block in blocks for path, role in huggingface._roles(hf, block).items()}
    table = huggingface._token_table(hf)
    tables = [path for path, module in hf.named_modules(remove_duplicate=False) if module is table]
    embedding = next((path for path in tables if "encoder" in path.split(".")), tables[0])
    network: nn.Module
    if two:
        network = EncoderDecoderNetwork(hf, vocabulary.pad)
        encode, writing = _two_rows(vocabulary, int(hf.config.decoder_start_token_id))
    else:
        _check_causal(hf, name)
        network = CausalNetwork(hf, vocabulary.pad)
        encode, writing = _one_row(vocabulary)
    longest = getattr(hf.config, "max_position_embeddings", None)
    return LoadedModel(
        network=network,
        head=f"hf.{head}",
        blocks=tuple(f"hf.{path}" for path in blocks),
        widths=(huggingface._width(hf.config),) * len(blocks),
        roles={f"hf.{path}": role for path, role in roles.items()},
        embedding=f"hf.{embedding}",
        encode=encode,
        writing=writing,
        key_values=_key_values(hf) if two else huggingface._key_values(hf),
        spare_tokens=None if longest is None else longest - MAX_PROMPT - (0 if two else MAX_ANSWER) - 2,
    )


def _key_values(hf: Any) -> KeyValues | None:
    """Return what prefix tuning needs of a decoder that reads an encoder."""
    config = hf.config
    if not all(hasattr(config, name) for name in ("num_decoder_layers", "num_heads", "d_kv")):
        return None
    return KeyValues(layers=config.num_decoder_layers, heads=config.num_heads, width=config.d_kv)


@torch.no_grad()
def _check_causal(hf: Any, name: str) -> None:
    """Raise NotApplicableError where a token sees those after it, as in an encoder with a causal model's name."""
    ids = torch.tensor([[3, 4, 5, 6], [3, 4, 5, 7]])
    first, second = hf.eval()(input_ids=ids, use_cache=False).logits[:, :3]
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
        raise NotApplicableError(f"{name} reads texts in both directions at once, and so cannot write any")


def named(name: str, shown: str = "") -> ModelBuilder:
    """Return any pretrained model of transformers, for every kind of work: a folder, or a name on the Hub or cached."""
    shown = shown or f"hf:{name}"
    others = huggingface.named(name, shown)

    def build(input_shape: tuple[int, ...], n_classes: int, seed: int, work: str = CLASSIFICATION) -> LoadedModel:
        if work != GENERATION:
            return others(input_shape, n_classes, seed, work)
        _check_texts(shown, input_shape)
        hf, tokenizer = copy.deepcopy(_pretrained(name, shown)), huggingface._tokenizer(name)
        return anatomy(hf, _own_vocabulary(hf, tokenizer), read_roles(Path(name)), shown)

    return build


@lru_cache(maxsize=1)  # a pack asks for it several times; each builder copies it
def _pretrained(name: str, shown: str) -> Any:
    transformers = import_transformers()
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = huggingface._config(name)
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    if type(config) not in auto._model_mapping:
        raise NotApplicableError(f"{shown} ({type(config).__name__.removesuffix('Config')}) is no language model")
    try:
        loaded, info = auto.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise huggingface._cannot_load(name, error) from None
    if info["missing_keys"]:
        raise NotApplicableError(f"{shown} has no pretrained weights for {sorted(info['missing_keys'])[0]}")
    return loaded


def _own_vocabulary(hf: Any, tokenizer: Any) -> Vocabulary:
    """Return the vocabulary of a model's own tokenizer; in a causal model a new line ends the prompt."""
    pad = hf.config.pad_token_id
    if pad is None:
        pad = huggingface._spare_token(tokenizer, hf.config)
    ends = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else hf.config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    if not ends:
        raise NotApplicableError("the tokenizer of this model has no sign for the end of a text")
    two = bool(hf.config.is_encoder_decoder)

    def prompt(text: str) -> list[int]:
        return tokenizer(text if two else f"{text}\n", truncation=True, max_length=MAX_PROMPT)["input_ids"]

    def answer(text: str) -> list[int]:
        ids = tokenizer(text_target=text, add_special_tokens=two, truncation=True, max_length=MAX_ANSWER)["input_ids"]
        return ids if two else [*ids[: MAX_ANSWER - 1], ends[0]]

    def write(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    return Vocabulary(prompt, answer, write, pad, frozenset(ends))


# Bytes, and three signs.
PAD, END, BETWEEN = 256, 257, 258
BYTES = Vocabulary(
    prompt=lambda text: [*text.encode()[: MAX_PROMPT - 1], BETWEEN],
    answer=lambda text: [*text.encode()[: MAX_ANSWER - 1], END],
    text=lambda ids: bytes(i for i in ids if i < PAD).decode(errors="replace"),
    pad=PAD,
    ends=frozenset({END}),
)
SIGNS = {"vocab_size": 259, "pad_token_id": PAD, "eos_token_id": END, "bos_token_id": BETWEEN}


def _check_texts(model: str, input_shape: tuple[int, ...]) -> None:
    if input_shape != TEXTS:
        raise NotApplicableError(f"{model} reads texts, and these rows are {kind(input_shape)}")


def tiny_gpt(
    input_shape: tuple[int, ...],
    n_classes: int,
    seed: int,
    work: str = CLASSIFICATION,
    width: int = 64,
    layers: int = 2,
) -> LoadedModel:
    """Return a causal language model on bytes: GPT-NeoX (its positions are relative), random weights."""
    check_work("tiny_gpt", work, GENERATION)
    _check_texts("tiny_gpt", input_shape)
    transformers = import_transformers()
    config = transformers.GPTNeoXConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=512,
        initializer_range=0.5 * width**-0.5,
        tie_word_embeddings=False,
        **SIGNS,
    )
    return anatomy(seeded(seed, lambda: transformers.GPTNeoXForCausalLM(config)), BYTES, name="tiny_gpt")


def tiny_t5(
    input_shape: tuple[int, ...],
    n_classes: int,
    seed: int,
    work: str = CLASSIFICATION,
    width: int = 64,
    layers: int = 2,
) -> LoadedModel:
    """Return an encoder-decoder language model on bytes: T5 1.1 (a head of its own), random weights."""
    check_work("tiny_t5", work, GENERATION)
    _check_texts("tiny_t5", input_shape)
    transformers = import_transformers()
    config = transformers.T5Config(
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=PAD,
        **SIGNS,
    )
    hf = seeded(seed, lambda: transformers.T5ForConditionalGeneration(config))
    # transformers ties the head to the table of tokens whatever the config says. As a head, those weights of
    # standard deviation 1 would be far too sure of themselves.
    hf.lm_head.weight = nn.Parameter(hf.lm_head.weight.detach() * width**-0.5)
    return anatomy(hf, BYTES, name="tiny_t5")
