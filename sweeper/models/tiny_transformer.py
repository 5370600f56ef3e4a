"""A tiny transformer encoder on token ids, or on the pixels of a small image read as tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.models.base import KeyValues, LoadedModel, NoKeyValues, NotApplicableError, check_work, kind, seeded
from sweeper.work import CLASSIFICATION, REGRESSION

WIDTH, HEADS, LAYERS, VOCABULARY = 32, 4, 2, 100
GREY_LEVELS = 17  # the digits of scikit-learn have 0 to 16
MAX_SIDE = 14  # longer sides are averaged down: 28 x 28 pixels would be 784 tokens


class Attention(nn.Module):
    """Multi-head self-attention with a layer for each role."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, before: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Map ``(batch, tokens, width)`` to the same shape; ``before`` are keys and values to look at as well."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        if before is not None:
            k, v = torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward, each with a residual and a normalisation after it (arXiv 1706.03762)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, before: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Map ``(batch, tokens, width)`` to the same shape."""
        x = self.norm1(x + self.attention(x, before))
        return self.norm2(x + self.mlp_out(F.relu(self.mlp_in(x))))


class TinyTransformer(nn.Module):
    """Embedding, fixed sinusoidal positions, encoder blocks, mean over tokens, linear head."""

    def __init__(self, width: int, heads: int, layers: int, vocabulary: int, n_classes: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(vocabulary, width)
        # Small beside the positions: with torch's own standard deviation of 1 the position is lost in the
        # noise, and clean digits stay at 0.67 after 300 steps instead of 0.84 (`digits_shifted`, lr 3e-3).
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.key_values: nn.Module = NoKeyValues()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.head = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map token ids ``(batch, tokens)``, or grey images ``(batch, 1, h, w)`` in 0..1, to ``(batch, classes)``."""
        ids = x if not x.is_floating_point() else pixels_as_tokens(x)
        x = self.embedding(ids)
        # Virtual tokens, which a strategy may put in front, have no position: the others keep theirs.
        virtual = x.shape[1] - ids.shape[1]
        x = x + F.pad(positions(ids.shape[1], self.width).to(x.device), (0, 0, virtual, 0))
        before = self.key_values(len(x)) or [None] * len(self.blocks)
        for block, own in zip(self.blocks, before, strict=True):
            x = block(x, own)
        return self.head(x.mean(1))


def pixels_as_tokens(x: Tensor) -> Tensor:
    """Return the grey levels of images ``(batch, 1, h, w)`` as ids ``(batch, h * w)``, row by row."""
    if max(x.shape[-2:]) > MAX_SIDE:
        x = F.adaptive_avg_pool2d(x, MAX_SIDE)
    return (x.flatten(1) * (GREY_LEVELS - 1)).round().clamp(0, GREY_LEVELS - 1).long()


def positions(tokens: int, width: int) -> Tensor:
    """Return sinusoidal position codes ``(tokens, width)`` (arXiv 1706.03762, section 3.5)."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(tokens).unsqueeze(1) * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def build(
    input_shape: tuple[int, ...],
    n_classes: int,
    seed: int,
    work: str = CLASSIFICATION,
    width: int = WIDTH,
    heads: int = HEADS,
    layers: int = LAYERS,
    vocabulary: int = VOCABULARY,
) -> LoadedModel:
    """Return a tiny transformer encoder on token ids or the pixels of a small image, random weights."""
    check_work("tiny_transformer", work, CLASSIFICATION, REGRESSION)
    if len(input_shape) not in (1, 3) or (len(input_shape) == 3 and input_shape[0] != 1):
        raise NotApplicableError(
            f"tiny_transformer reads token ids or grey images, and these rows are {kind(input_shape)}"
        )
    network = seeded(seed, lambda: TinyTransformer(width, heads, layers, vocabulary, n_classes))
    inside = {
        "attention.query": "query",
        "attention.key": "key",
        "attention.value": "value",
        "attention.out": "attn_out",
        "mlp_in": "mlp_in",
        "mlp_out": "mlp_out",
    }
    return LoadedModel(
        network=network,
        head="head",
        blocks=tuple(f"blocks.{i}" for i in range(layers)),
        widths=(width,) * layers,
        roles={f"blocks.{i}.{path}": role for i in range(layers) for path, role in inside.items()},
        embedding="embedding",
        key_values=KeyValues(layers, heads, width // heads),
    )
