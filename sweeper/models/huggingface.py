"""Any transformers classifier or tagger: ``hf:NAME_OR_PATH``, from a local folder, the cache, or the Hub.

Encoders (BERT, RoBERTa, DistilBERT, ...), decoders (GPT-2, Llama, ...), encoder-decoders (T5) and vision
transformers (ViT). Roles are read off the model's own structure; for a family whose structure says too
little, a file ``roles.toml`` beside the weights names them (`read_roles`).
"""

from __future__ import annotations

import copy
import fnmatch
import inspect
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.models.base import (
    Encode,
    KeyValues,
    LoadedModel,
    ModelBuilder,
    NoKeyValues,
    NotApplicableError,
    UnavailableError,
    check_work,
    kind,
    seeded,
)
from sweeper.models.tokens import MAX_TOKENS, tag_encoder
from sweeper.suggest import no_such
from sweeper.torchvision_ops import declare_missing_ops
from sweeper.work import CLASSIFICATION, REGRESSION, TAGGING

INSTALL = "pip install 'sweeper-advisor[hf]'"
# Work on texts -> transformers' class for it.
OF_TEXTS = {
    CLASSIFICATION: "AutoModelForSequenceClassification",
    REGRESSION: "AutoModelForSequenceClassification",
    TAGGING: "AutoModelForTokenClassification",
}
OF_IMAGES = dict.fromkeys((CLASSIFICATION, REGRESSION), "AutoModelForImageClassification")


class TextNetwork(nn.Module):
    """A transformers classifier that reads padded token ids ``(batch, tokens)`` and gives logits.

    Args:
        hf: The classifier.
        pads_left: Whether padding stands before the tokens, as for decoders, which answer at the last one.
    """

    def __init__(self, hf: Any, pads_left: bool) -> None:
        super().__init__()
        self.hf: Any = hf
        self.pads_left = pads_left
        self.pad: int = hf.config.pad_token_id
        self.is_encoder_decoder = bool(hf.config.is_encoder_decoder)
        self.takes_positions = pads_left and "position_ids" in inspect.signature(hf.forward).parameters
        self.key_values: nn.Module = NoKeyValues()

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids ``(batch, tokens)`` to ``(batch, classes)``, or a tagger's to ``(batch, tokens, tags)``."""
        mask = ids != self.pad
        used = mask.any(0).nonzero()  # short texts need no columns of padding
        ids = ids[:, int(used[0]) :] if self.pads_left else ids[:, : int(used[-1]) + 1]
        mask = ids != self.pad
        call: dict[str, Any] = {"input_ids": ids}
        embedding = _token_table(self.hf)
        if getattr(embedding, "virtual_tokens", 0):
            embedded = embedding(ids)
            mask = _ones_before(mask, embedded.shape[1] - ids.shape[1])
            if self.is_encoder_decoder:
                call["encoder_outputs"] = self.hf.get_encoder()(inputs_embeds=embedded, attention_mask=mask.long())
            else:
                call = {"inputs_embeds": embedded}
        past = self.key_values(len(ids))
        if past is not None:
            from transformers import DynamicCache

            call["past_key_values"] = cache = DynamicCache()
            for layer, (key, value) in enumerate(past):
                cache.update(key, value, layer)
            mask = _ones_before(mask, past[0][0].shape[2])
        if self.takes_positions:
            call["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -_tokens(call) :]
        logits = self.hf(attention_mask=mask.long(), use_cache=False, **call).logits
        # Token by token: virtual tokens stand first, and nothing is asked of them.
        return logits[:, -ids.shape[1] :] if logits.dim() == 3 else logits


def _token_table(hf: Any) -> nn.Module:
    """Return the embedding of input tokens; of a table that encoder and decoder share, the encoder's place for it."""
    return (hf.get_encoder() if hf.config.is_encoder_decoder else hf).get_input_embeddings()


def _tokens(call: Mapping[str, Tensor]) -> int:
    return call["inputs_embeds" if "inputs_embeds" in call else "input_ids"].shape[1]


def _ones_before(mask: Tensor, n: int) -> Tensor:
    return torch.cat([mask.new_ones(len(mask), n), mask], dim=1)


class ImageNetwork(nn.Module):
    """A transformers image classifier on images ``(batch, channels, h, w)`` in 0..1, grey or coloured."""

    def __init__(self, hf: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.hf: Any = hf
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Resize, normalise, and map to ``(batch, classes)``."""
        size = self.hf.config.image_size
        x = F.interpolate(x, size if isinstance(size, list | tuple) else (size, size), mode="bilinear")
        x = x.expand(-1, self.hf.config.num_channels, -1, -1)
        mean, std = (x.new_tensor(value).view(-1, 1, 1) for value in (self.mean, self.std))
        return self.hf(pixel_values=(x - mean) / std).logits


def named(name: str, shown: str = "") -> ModelBuilder:
    """Return the builder of ``hf:NAME``; NAME is a folder, or a model on the Hub or in its cache.

    Args:
        name: The folder or the model.
        shown: What messages call it, if not that.
    """
    shown = shown or f"hf:{name}"

    def build(input_shape: tuple[int, ...], n_classes: int, seed: int, work: str = CLASSIFICATION) -> LoadedModel:
        autos = OF_IMAGES if input_shape else OF_TEXTS
        check_work(shown, work, *autos)
        config = _config(name)
        _check_kind(config, input_shape, shown)
        if work == TAGGING:
            _check_tags(config, shown)
        hf, fresh = _pretrained(name, n_classes, autos[work])
        hf = copy.deepcopy(hf)
        tokenizer = None if input_shape else _tokenizer(name, **({"add_prefix_space": True} if work == TAGGING else {}))
        return anatomy(hf, input_shape, fresh, tokenizer, read_roles(Path(name)), shown, work)

    return build


def _config(name: str) -> Any:
    try:
        return import_transformers().AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from None


def _check_kind(config: Any, input_shape: tuple[int, ...], name: str) -> bool:
    """Return whether a model reads images; raise NotApplicableError where the rows are nothing that it reads."""
    sees = hasattr(config, "image_size")
    if len(input_shape) != (3 if sees else 0):
        reads = "images" if sees else "texts"
        raise NotApplicableError(f"{name} reads {reads}, and these rows are {kind(input_shape)}")
    return sees


def _check_tags(config: Any, name: str) -> None:
    """Raise NotApplicableError unless a model reads a sentence in both directions and transformers has a tagger of it.

    A decoder's tag could not depend on the words after it.
    """
    import_transformers()
    from transformers.models.auto import modeling_auto

    taggers, fillers = (
        modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )
    if config.is_encoder_decoder or config.model_type not in taggers or config.model_type not in fillers:
        raise NotApplicableError(f"{name} is no encoder (BERT, RoBERTa, DistilBERT, ...), and {TAGGING} needs one")


@lru_cache(maxsize=1)  # a pack asks for it several times; each builder copies it
def _pretrained(name: str, n_classes: int, auto_class: str) -> tuple[Any, frozenset[str]]:
    """Return a model of an auto class with pretrained weights, and the names of its parameters that are new."""
    transformers = import_transformers()
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is new is counted and trained here: no need to warn of it
    auto = getattr(transformers, auto_class)
    try:
        loaded, info = seeded(
            0,
            lambda: auto.from_pretrained(
                name,
                num_labels=n_classes,
                ignore_mismatched_sizes=True,
                use_safetensors=True,  # never a pickle
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            ),
        )
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from None
    finally:
        logging.set_verbosity(verbosity)
    new = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    return loaded, frozenset(new)


def _tokenizer(name: str, **options: Any) -> Any:
    try:
        return import_transformers().AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from None


def _cannot_load(name: str, error: Exception) -> Exception:
    if Path(name).is_dir():
        return ValueError(f"hf:{name}: {' '.join(str(error).split())[:300]}")
    if name.startswith((".", "/", "~")):
        return ValueError(f"hf:{name}: there is no such folder, check the path")
    return UnavailableError(
        f"hf:{name} is in no local cache and the Hub cannot be reached or does not have it. With a network: check "
        f"the name, or log in (`hf auth login`). Without: on a machine that has one, `hf download {name} --local-dir "
        f"FOLDER`, bring the folder, and name the model hf:FOLDER"
    )


def import_transformers() -> Any:
    """Return the package transformers.

    Raises:
        UnavailableError: it is not installed.
    """
    declare_missing_ops()
    try:
        import transformers
    except ImportError:
        raise UnavailableError(f"hf: models need the package transformers: {INSTALL}") from None
    return transformers


def anatomy(
    hf: Any,
    input_shape: tuple[int, ...],
    fresh: frozenset[str] = frozenset(),
    tokenizer: Any = None,
    by_hand: Mapping[str, Any] | None = None,
    name: str = "this model",
    work: str = CLASSIFICATION,
) -> LoadedModel:
    """Return a transformers classifier or tagger with its parts named by role.

    Args:
        hf: The classifier or tagger.
        input_shape: ``()`` for texts, ``(channels, h, w)`` for images.
        fresh: Names of its parameters that have no pretrained weights.
        tokenizer: For texts; without one the network reads token ids.
        by_hand: What `read_roles` returns; it replaces what the structure says.
        name: For messages.
        work: What `sweeper.work` calls it.

    Raises:
        NotApplicableError: the rows are nothing that the model reads.
        ValueError: the structure says too little, and no roles were named by hand.
    """
    by_hand = by_hand or {}
    _linears_for_conv1d(hf)
    sees = _check_kind(hf.config, input_shape, name)
    blocks = _match(by_hand["blocks"], hf, name) if "blocks" in by_hand else _blocks(hf)
    head = by_hand.get("head") or _head(hf, blocks)
    if not blocks or head is None:
        raise ValueError(
            f"{name} ({type(hf).__name__}) is of a family that is not known here: "
            f"found {'no repeated blocks' if not blocks else 'no linear head'}. Name its parts in a file roles.toml "
            f"beside its weights: head = 'path', blocks = ['path.*'], and under [roles] query = ['*.q_proj'] and so on"
        )
    if "roles" in by_hand:
        roles = {path: role for role, found in by_hand["roles"].items() for path in _match(found, hf, name)}
    else:
        roles = {path: role for block in blocks for path, role in _roles(hf, block).items()}
    before_head = [
        path
        for path, module in hf.named_modules()
        if isinstance(module, nn.Linear)
        and path != head
        and f"{path}.weight" in fresh
        and not any(path.startswith(f"{block}.") for block in blocks)
    ]
    pads_left = False
    network: nn.Module
    embedding = None
    key_values = None
    encode = None
    if sees:
        network = ImageNetwork(hf, [0.5] * hf.config.num_channels, [0.5] * hf.config.num_channels)
    else:
        table = _token_table(hf)
        paths = [path for path, module in hf.named_modules(remove_duplicate=False) if module is table]
        embedding = f"hf.{next((path for path in paths if 'encoder' in path.split('.')), paths[0])}"
        if hf.config.pad_token_id is None:
            hf.config.pad_token_id = _spare_token(tokenizer, hf.config)
        pads_left = hasattr(hf, "score")  # transformers' own name for the head that reads the last token
        network = TextNetwork(hf, pads_left)
        key_values = _key_values(hf)
        if tokenizer is not None:
            encode = tag_encoder(tokenizer, name) if work == TAGGING else _encoder(tokenizer, hf.config, pads_left)
    return LoadedModel(
        network=network,
        head=f"hf.{head}",
        blocks=tuple(f"hf.{path}" for path in blocks),
        widths=(_width(hf.config),) * len(blocks),
        roles={f"hf.{path}": role for path, role in roles.items()},
        embedding=embedding,
        before_head=tuple(f"hf.{path}" for path in before_head),
        encode=encode,
        key_values=key_values,
        spare_tokens=None if sees else _spare_tokens(hf.config),
    )


def _encoder(tokenizer: Any, config: Any, pads_left: bool) -> Encode:
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    tokenizer.padding_side = "left" if pads_left else "right"

    def encode(texts: Sequence[Any], y: Tensor) -> tuple[Tensor, Tensor]:
        ids = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        return ids["input_ids"], y

    return encode


def _spare_token(tokenizer: Any, config: Any) -> int:
    """Return a token to pad with, for models that were pretrained without padding."""
    for found in (getattr(tokenizer, "pad_token_id", None), config.eos_token_id):
        if isinstance(found, int):
            return found
    return int(config.vocab_size) - 1


def _spare_tokens(config: Any) -> int | None:
    """Return how many positions texts of `MAX_TOKENS` leave; ``None`` for a model that counts without limit."""
    most = getattr(config, "max_position_embeddings", None)
    return None if most is None else most - MAX_TOKENS - 2  # RoBERTa counts from 2


def _width(config: Any) -> int:
    """Return the features that a block puts out."""
    return int(config.hidden_size)


def _blocks(hf: Any) -> list[str]:
    """Return the paths of the repeated blocks: the members of the longest lists of alike modules that hold linears."""
    lists = {
        path: module
        for path, module in hf.named_modules()
        if isinstance(module, nn.ModuleList)
        and len({type(block) for block in module}) == 1
        and any(isinstance(inner, nn.Linear) for inner in module[0].modules())
    }
    outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    return [f"{path}.{i}" for path in outer for i in range(len(lists[path]))]


def _head(hf: Any, blocks: Sequence[str]) -> str | None:
    """Return the path of the linear layer that puts out the classes."""
    found = [
        path
        for path, module in hf.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == hf.config.num_labels
        and not any(path.startswith(f"{block}.") for block in blocks)
    ]
    return found[-1] if found else None


def _roles(hf: Any, block: str) -> dict[str, str]:
    """Return the role of each linear in a block.

    Inside a module whose class is called an attention, the layer's own name tells query, key and value,
    and a width of all three at once tells a fused one; outside, the wider side tells the feed-forward's.
    """
    inside = {}
    for path, module in hf.get_submodule(block).named_modules():
        if not isinstance(module, nn.Linear):
            continue
        *parents, own = path.split(".")
        above = [hf.get_submodule(".".join([block, *parents[: i + 1]])) for i in range(len(parents))]
        if any("attention" in type(parent).__name__.lower() for parent in above):
            role = next((role for role, name in NAMES.items() if re.fullmatch(name, own)), "attn_out")
        elif module.out_features == module.in_features:
            role = "linear"
        else:
            role = "mlp_in" if module.out_features > module.in_features else "mlp_out"
        inside[f"{block}.{path}"] = role
    return inside


NAMES = {
    "query": r"(q|query)(_?(proj|lin))?",
    "key": r"(k|key)(_?(proj|lin))?",
    "value": r"(v|value)(_?(proj|lin))?",
    "qkv": r"c_attn|qkv(_proj)?|query_key_value|in_proj|Wqkv",
}


def _key_values(hf: Any) -> KeyValues | None:
    """Return what prefix tuning needs, where the model takes keys and values from before."""
    backbone = getattr(hf, hf.base_model_prefix, None)
    if backbone is None or hf.config.is_encoder_decoder:
        return None
    if "past_key_values" not in inspect.signature(backbone.forward).parameters:
        return None
    config = hf.config
    heads = config.num_attention_heads
    return KeyValues(
        layers=config.num_hidden_layers,
        heads=getattr(config, "num_key_value_heads", None) or heads,
        width=getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


def _linears_for_conv1d(hf: Any) -> None:
    """Replace GPT-2's Conv1D, a linear layer with its weight transposed, by an ordinary linear layer.

    The model remembers their paths: in its files these weights stand transposed.
    """
    from transformers.pytorch_utils import Conv1D

    hf.loaded_from_conv1d = frozenset(path for path, module in hf.named_modules() if isinstance(module, Conv1D))
    for path, module in [*hf.named_modules()]:
        if isinstance(module, Conv1D):
            linear = nn.Linear(*module.weight.shape)
            with torch.no_grad():
                linear.weight.copy_(module.weight.T)
                linear.bias.copy_(module.bias)
            parent, _, own = path.rpartition(".")
            setattr(hf.get_submodule(parent), own, linear)


def read_roles(folder: Path) -> dict[str, Any]:
    """Return the parts of a model that its ``roles.toml`` names by hand; nothing where there is no such file.

    Keys: ``head`` (a path), ``blocks`` (paths, first to last) and the table ``roles`` with a list of paths
    for each role. Paths are those of `torch.nn.Module.named_modules`; ``*`` and ``?`` stand for any text.

    Raises:
        ValueError: an unknown key.
    """
    file = folder / "roles.toml"
    if not file.is_file():
        return {}
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    for key in found:
        if key not in ("head", "blocks", "roles"):
            raise no_such("key", key, ["head", "blocks", "roles"], f" in {file}")
    return found


def _match(patterns: Sequence[str], hf: Any, name: str) -> list[str]:
    """Return the module paths that patterns name, in the model's order."""
    paths = [path for path, _ in hf.named_modules()]
    for pattern in patterns:
        if not fnmatch.filter(paths, pattern):
            raise no_such("module", pattern, paths, f" in {name}")
    return [path for path in paths if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)]
