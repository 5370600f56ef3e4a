"""The shape of a model from its files: config.json, the header of a safetensors file, an index of shards, a folder.

Of weights only the header is read: 8 bytes of length and a JSON object that names each tensor with type and shape.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from advisor.configs import MOST, from_config
from advisor.shapes import Kind, Linear, ModelShape
from sweeper.safe_json import open_inside, parse_object, read_json

MAX_HEADER = 16 * 2**20
MAX_TENSORS = 100_000
MAX_SHARDS = 1_000
INDEX = "model.safetensors.index.json"
WAY_OUT = "Give the model's folder with its config.json, or --model-params"
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]

# Role -> what the name of such a weight ends with, the last part (".weight") left out; the first that fits counts.
ROLES: Mapping[str, str] = {
    "qkv": r"(c_attn|query_key_value|qkv_proj|Wqkv|qkv)",
    "query": r"(q_proj|query|q_lin|to_q|SelfAttention\.q|EncDecAttention\.q)",
    "key": r"(k_proj|key|k_lin|to_k|SelfAttention\.k|EncDecAttention\.k)",
    "value": r"(v_proj|value|v_lin|to_v|SelfAttention\.v|EncDecAttention\.v)",
    "attn_out": r"(o_proj|out_proj|out_lin|attention\.output\.dense|attn\.c_proj|(self_)?attention\.dense|"
    r"(Self|EncDec)Attention\.o)",
    "mlp_out": r"(down_proj|fc2|mlp\.c_proj|output\.dense|dense_4h_to_h|lin2|wo|w2)",
    "mlp_in": r"(gate_proj|up_proj|gate_up_proj|fc1|c_fc|intermediate\.dense|dense_h_to_4h|lin1|wi|wi_0|wi_1|w1|w3)",
}
TRANSPOSED = re.compile(r"(c_attn|c_proj|c_fc)\.weight")  # GPT-2 stores (inputs, outputs)
TOKENS = re.compile(r"(embed_tokens|wte|word_embeddings|shared|embed_in|tok_embeddings)\.weight$")
HEADS = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")


def read(path: str | Path) -> ModelShape:
    """Return the shape of the model in a file or a folder.

    Args:
        path: A ``config.json``, a safetensors file, an index of shards, or a folder with some of these: then the
            config tells how it is built, and the weights how large it is and of what type.

    Raises:
        ValueError: there is no such file, or it is not what its name says; in one line, with the way out.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if path.name.endswith(".index.json"):
        return from_tensors(_sharded(path.parent, path.name), str(path))
    if path.suffix == ".json":
        return from_config(read_json(path.parent, path.name), str(path))
    return from_tensors(header(path.parent, path.name), str(path))


def _folder(path: Path) -> ModelShape:
    weights = path / INDEX if (path / INDEX).exists() else next(iter(sorted(path.glob("*.safetensors"))), None)
    config = path / "config.json"
    if weights is None and not config.exists():
        raise ValueError(f"{path} holds neither config.json nor *.safetensors: take another folder, or --model-params")
    if weights is None:
        return read(config)
    tensors = _sharded(path, INDEX) if weights.name == INDEX else header(path, weights.name)
    if not config.exists():
        return from_tensors(tensors, str(weights))
    shape = from_config(read_json(path, config.name), str(config))
    found = sum(math.prod(own) for _, own in tensors.values())
    # Quantised weights are packed, a head may be left out: then the config is nearer to the truth.
    whole = 0.8 * shape.params < found < 1.25 * shape.params
    return replace(shape, params=found if whole else shape.params, dtype=shape.dtype or _dtype(tensors))


def header(folder: Path, name: str) -> Tensors:
    """Return name -> (type, shape) of the tensors of a safetensors file, from its header alone.

    Raises:
        ValueError: the file is not what the format says, or beyond our limits.
    """
    where = folder / name
    with open_inside(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(
                f"{where} is no safetensors file, or is cut off: {size:,} bytes, a header of {length:,}. {WAY_OUT}"
            )
        if length > MAX_HEADER:
            raise ValueError(f"{where} has a header of {length:,} bytes; at most {MAX_HEADER:,} are read. {WAY_OUT}")
        found = parse_object(file.read(length), f"the header of {where}")
    found.pop("__metadata__", None)
    if len(found) > MAX_TENSORS:
        raise ValueError(f"{where} holds {len(found):,} tensors; at most {MAX_TENSORS:,} are read. {WAY_OUT}")
    return {key: _entry(value, key, where) for key, value in found.items()}


def _entry(value: Any, name: str, where: Path) -> tuple[str, tuple[int, ...]]:
    shape, dtype = (value.get("shape"), value.get("dtype")) if isinstance(value, Mapping) else (None, None)
    sizes = isinstance(shape, list) and len(shape) <= 16 and all(type(n) is int and 0 <= n < MOST for n in shape)
    if not isinstance(shape, list) or not sizes or not isinstance(dtype, str):
        raise ValueError(f"{where} describes {name!r:.80} otherwise than by dtype and shape: {value!r:.80}. {WAY_OUT}")
    return dtype, tuple(shape)


def _sharded(folder: Path, name: str) -> Tensors:
    where = folder / name
    with open_inside(folder, name) as file:
        content = file.read(MAX_HEADER + 1)
    if len(content) > MAX_HEADER:
        raise ValueError(f"{where} is larger than {MAX_HEADER:,} bytes. {WAY_OUT}")
    places = parse_object(content, str(where)).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(own, str) for own in places.values()):
        raise ValueError(f"{where} has no weight_map of tensors to files. {WAY_OUT}")
    shards = sorted({*places.values()})
    if len(shards) > MAX_SHARDS:
        raise ValueError(f"{where} names {len(shards):,} files; at most {MAX_SHARDS:,} are read. {WAY_OUT}")
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for shard in shards:
        found |= header(folder, shard)
    return found


def from_tensors(tensors: Tensors, where: str) -> ModelShape:
    """Return the shape that tensors' names and sizes tell, of any family with the usual names.

    Raises:
        ValueError: there are no repeated blocks with linears of known roles.
    """
    groups: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, (_, sizes) in tensors.items():
        block = re.search(r"\.(\d+)\.", f".{name}")
        if block and len(sizes) == 2 and name.endswith("weight"):
            key = (re.sub(r"\.\d+\.", ".#.", f".{name}"), sizes)
            groups[key] = groups.get(key, 0) + 1
    linears = []
    for (name, sizes), count in groups.items():
        first, second = sizes
        role = next((role for role, own in ROLES.items() if re.search(rf"\.{own}\.weight$", name)), None)
        if role is not None:
            inputs, outputs = (first, second) if TRANSPOSED.search(name) else (second, first)
            bias = name.removesuffix("weight") + "bias" in {re.sub(r"\.\d+\.", ".#.", f".{own}") for own in tensors}
            linears.append(Linear(role, inputs, outputs, count, bias))
    outs = [linear for linear in linears if linear.role in ("attn_out", "mlp_out")]
    if not outs:
        raise ValueError(f"{where} has no repeated blocks whose linears have names that are known here. {WAY_OUT}")
    hidden = outs[0].outputs
    blocks = max(sum(lin.count for lin in linears if lin.role == "mlp_out"), max(lin.count for lin in outs))
    keys = next((lin.outputs for lin in linears if lin.role == "key"), hidden)
    table = next((own for name, (_, own) in tensors.items() if TOKENS.search(name) and len(own) == 2), None)
    norms = {name: own for name, (_, own) in tensors.items() if len(own) == 1 and re.search(r"(?i)norm|ln_", name)}
    scales = [own[0] for name, own in norms.items() if name.endswith("weight")]
    shifts = [own[0] for name, own in norms.items() if name.endswith("bias")]
    gated = sum(lin.count for lin in linears if lin.role == "mlp_in") > blocks or any(
        "gate_up" in own for own in tensors
    )
    kind: Kind = "causal"
    if table is None:
        kind = "image"
    elif any("EncDecAttention" in name or "encoder_attn" in name for name in tensors):
        kind = "encoder_decoder"
    elif any("encoder.layer" in name or "transformer.layer." in name for name in tensors):
        kind = "encoder"
    return ModelShape(
        params=sum(math.prod(own) for _, own in tensors.values()),
        layers=blocks,
        hidden=hidden,
        kv=keys,
        linears=tuple(linears),
        kind=kind,
        vocab=table[0] if table else 0,
        norms=sum(1 for width in scales if width == hidden),
        norm_params=sum(scales),
        norm_biases=sum(shifts),
        rms=not shifts,
        gated=gated,
        inner_kept=1.5 if gated else 4.0 if any(TRANSPOSED.search(name) for name in tensors) else 1.0,
        heads=hidden / 64,  # not written in tensors; 64 is the commonest width of a head
        writes_scores=kind == "encoder_decoder",
        head=2 * hidden + 2 if kind in ("encoder", "image") else 0,
        tied=not any(HEADS.search(name) for name in tensors),
        tokens=197 if kind == "image" else None,
        dtype=_dtype(tensors),
        said_by=where,
    )


def _dtype(tensors: Tensors) -> str | None:
    """Return the type that most values have."""
    held: dict[str, int] = {}
    for dtype, sizes in tensors.values():
        held[dtype] = held.get(dtype, 0) + math.prod(sizes)
    return max(held, key=lambda dtype: held[dtype], default=None)
