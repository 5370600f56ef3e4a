"""What of a model its costs depend on: the linears of its blocks, its width, its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["causal", "encoder", "encoder_decoder", "image", "diffusion"]


@dataclass(frozen=True)
class Linear:
    """Alike linear layers inside the blocks.

    Attributes:
        role: "query", "key", "value", "qkv" (fused), "attn_out", "mlp_in", "mlp_out", ... as in `LoadedModel.roles`.
        count: How many of them; a model guessed from a count of parameters may have 22.4.
    """

    role: str
    inputs: float
    outputs: float
    count: float
    bias: bool = False

    @property
    def params(self) -> float:
        """Weights of all of them, biases left out."""
        return self.count * self.inputs * self.outputs


@dataclass(frozen=True)
class ModelShape:
    """A model as far as its costs depend on it.

    Attributes:
        params: All parameters, the head included.
        layers: Blocks, those of encoder and decoder together.
        kv: Width of the keys of all heads together.
        vocab: Rows of the token table, 0 for images.
        norms: Normalisation layers; ``norm_params`` are their scales, ``norm_biases`` their shifts.
        rms: Whether they are of the kind that computes in float32 step by step (Llama) instead of in one kernel.
        gated: Whether the feed-forward multiplies two inner activations (SwiGLU and its kin).
        inner_kept: Inner activations that backward needs, for each that the first linears put out: 1 of GELU in
            one kernel, 3 for 2 of SwiGLU, 4 of GPT-2's own GELU, which is written out in Python.
        heads: Attention heads of a block, 0 where unknown.
        writes_scores: Whether attention keeps its scores (T5's, which adds positions to them).
        head: Parameters of the fresh head, 0 where the vocabulary is the head.
        other_biases: Biases outside blocks and normalisations.
        tied: Whether the head of a language model is its token table.
        tokens: Tokens of one image, ``None`` for texts.
        dtype: Type of the stored weights, where a file said so.
        said_by: Where this was read; "a typical model of that count" is a guess.
    """

    params: float
    layers: float
    hidden: float
    kv: float
    linears: tuple[Linear, ...]
    kind: Kind = "causal"
    vocab: float = 0
    norms: float = 0
    norm_params: float = 0
    norm_biases: float = 0
    other_biases: float = 0
    rms: bool = True
    gated: bool = True
    inner_kept: float = 1.5
    heads: float = 0
    writes_scores: bool = False
    head: float = 0
    tied: bool = True
    tokens: int | None = None
    dtype: str | None = None
    said_by: str = "config.json"

    @property
    def in_blocks(self) -> float:
        """Weights of the linears inside the blocks: what 4-bit methods quantise."""
        return min(self.params, sum(linear.params for linear in self.linears))

    @property
    def attention(self) -> float:
        """Width that attention puts out, summed over layers."""
        own = sum(linear.inputs * linear.count for linear in self.linears if linear.role == "attn_out")
        return own + self.hidden * sum(linear.count for linear in self.linears if linear.role == "joint_out")

    @property
    def inner(self) -> float:
        """Width of what comes out of the feed-forwards' first linears, summed over layers."""
        own = sum(linear.outputs * linear.count for linear in self.linears if linear.role == "mlp_in")
        joint = (lin for lin in self.linears if lin.role == "joint_in")  # query, key and value beside it
        return own + sum((linear.outputs - 3 * self.hidden) * linear.count for linear in joint)

    def targets(self, selection: str) -> Iterator[Linear]:
        """Yield the linears that a selection names: roles joined by "+", or "all"."""
        wanted = {*selection.split("+")}
        fused = "qkv" if wanted & {"query", "key", "value"} else ""
        for linear in self.linears:
            if "all" in wanted or linear.role in wanted or linear.role == fused:
                yield linear


def from_count(params: float, image: bool = False) -> ModelShape:
    """Return a typical transformer of so many parameters, which need not be whole in width and depth.

    12 L h^2 in the blocks (4 h^2 of attention and 8 h^2 of feed-forward a layer) and a token table. Width over
    depth grows from 64 (GPT-2 and BERT-base: 768 / 12) at 0.1 B to 128 (Llama 2 7B and GPT-3: 4096 / 32,
    12288 / 96) at 7 B; the vocabulary from BERT's 30,522 at 0.1 B to Llama 3's 128,256 from 3 B on.
    """
    aspect = min(128.0, max(16.0, 64 * (params / 1e8) ** 0.163))
    vocab = 0.0 if image else min(128_256.0, 30_522 * (params / 1e8) ** 0.42)
    low, high = 0.0, 1e7
    for _ in range(100):  # 12 h^3 / aspect + vocab h = params grows with h
        hidden = (low + high) / 2
        low, high = (hidden, high) if 12 * hidden**3 / aspect + vocab * hidden < params else (low, hidden)
    layers = hidden / aspect
    inner = [("mlp_in", hidden, 4 * hidden)] if image else [("mlp_in", hidden, hidden * 8 / 3)] * 2
    attention = [(role, hidden, hidden) for role in ("query", "key", "value", "attn_out")]
    every = [*attention, *inner, ("mlp_out", hidden * (4 if image else 8 / 3), hidden)]
    norms = 2 * layers + 1
    return ModelShape(
        params=params,
        layers=layers,
        hidden=hidden,
        kv=hidden,
        linears=tuple(Linear(role, inputs, outputs, layers, bias=image) for role, inputs, outputs in every),
        kind="image" if image else "causal",
        vocab=vocab,
        heads=hidden / 64,
        norms=norms,
        norm_params=norms * hidden,
        norm_biases=norms * hidden if image else 0,
        rms=not image,
        gated=not image,
        inner_kept=1.0 if image else 1.5,
        head=2 * hidden + 2 if image else 0,
        tied=params < 3e9,  # as Llama 3.2 1B and Qwen 2.5 1.5B are, and Llama 3.1 8B and Qwen 2.5 7B are not
        tokens=197 if image else None,  # 224 x 224 in patches of 16, and a class token
        said_by="a typical model of that count",
    )
