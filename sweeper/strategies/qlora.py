"""QLoRA: low-rank updates beside a base that is kept in 4 bits."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.models.base import LoadedModel, UnavailableError, generators
from sweeper.spec import Json
from sweeper.strategies.base import Stage, check_above_zero, check_whole
from sweeper.strategies.low_rank import LowRank, MemberDropout, check_dropout, check_rank, check_targets


@dataclass(frozen=True)
class Qlora:
    """Train a low-rank update beside linear layers kept in 4-bit NormalFloat (arXiv 2305.14314, section 3).

    Formula: ``y = dequantised(W in NF4) x + (alpha / rank) B A x, where A and B train``.

    Every linear layer inside the blocks is quantised, whether it is a target or not; embedding, head,
    convolutions and biases stay as they are. The base is then near the loaded network, not the same, and
    switching off does not give that one back. Needs bitsandbytes.

    The space is the paper's search (appendix A.1); it trains at 2e-4 and below (table 9).

    Attributes:
        rank: Rank of the update.
        alpha: Scale; the update is multiplied by ``alpha / rank``.
        targets: Which layers take an update, as roles joined by "+" (`LoadedModel.targets`).
        double_quant: Whether the scales of the 4-bit blocks are quantised too, to 8 bits: saves 0.37 bits a
            weight (section 3, "Double Quantization").
        dropout: Share of the low-rank term's inputs that training drops.
    """

    name: ClassVar[str] = "qlora"
    per_member: ClassVar[frozenset[str]] = frozenset({"rank", "alpha", "dropout"})
    space: ClassVar[Mapping[str, Sequence[Json]]] = {
        "rank": (8, 16, 32),
        "dropout": (0.0, 0.05, 0.1),
        "lr": (1e-3, 3e-3, 1e-2),
    }

    rank: int = 8
    alpha: float = 16.0
    targets: str = "all"
    double_quant: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_whole("qlora.rank", self.rank)
        object.__setattr__(self, "alpha", check_above_zero("qlora.alpha", self.alpha))
        object.__setattr__(self, "dropout", check_dropout("qlora.dropout", self.dropout))
        check_targets("qlora.targets", self.targets)
        if not isinstance(self.double_quant, bool):
            raise ValueError(f"qlora.double_quant must be true or false, got {self.double_quant!r}")

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Quantise the linears of the blocks, and put a low-rank term beside each target."""
        linears = [path for path in model.roles if type(model.get(path)) is nn.Linear]
        if not linears:
            raise model.not_applicable("qlora", "this model has no linear layer inside its blocks to keep in 4 bits")
        paths = model.targets(self.targets)
        ranks = [member.rank for member in members]
        check_rank("qlora", {path: model.get(path) for path in paths}, max(ranks))
        check_available(next(model.network.parameters()).device.type)

        for path in linears:
            layer = model.get(path)
            assert isinstance(layer, nn.Linear)
            model.replace(path, Nf4Linear(layer, self.double_quant))
        model.quantised = True
        rngs = generators(model.seeds, "qlora")
        dropout = MemberDropout([member.dropout for member in members], model.seeds)
        scales = [member.alpha / member.rank for member in members]
        for path in paths:
            model.attach(path, LowRank(model.get(path), ranks, scales, rngs, dropout=dropout))
        if model.head_is_fresh and model.head not in paths:
            model.wake_fresh_head()
        yield Stage()


def check_available(device: str) -> None:
    """Raise UnavailableError where 4-bit layers do not run on this kind of device."""
    reason = _why_not(device)
    if reason:
        raise UnavailableError(reason)


@functools.cache
def _why_not(device: str) -> str:
    """Return why 4-bit layers do not run, after one tiny step through one; empty where they do."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "qlora needs bitsandbytes: pip install 'sweeper-advisor[qlora]'"
    try:
        layer = Nf4Linear(nn.Linear(64, 64).to(device), double_quant=True)
        layer(torch.ones(2, 64, device=device, requires_grad=True)).sum().backward()
    except Exception as error:  # a missing kernel may raise anything, and any of it is the reason
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return (
            f"qlora cannot run on {device}, where the 4-bit kernels of bitsandbytes fail ({reason}): "
            "pip install -U bitsandbytes, or take lora, which needs none"
        )
    return ""


def _bitsandbytes() -> Any:
    # On some CPUs its import warns that a faster kernel, which we do not use, is not installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes


BLOCK = 64  # weights to a scale (section 4)


class Nf4Linear(nn.Module):
    """A frozen linear layer whose weight is kept in 4 bits, its bias as it was.

    Rows are filled with zeros to whole blocks. Where a block crosses rows, the AVX-512 kernel of
    bitsandbytes 0.50 takes the wrong scale (rows of 32 or 96 weights, for instance).
    """

    def __init__(self, base: nn.Linear, double_quant: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.padding = -base.in_features % BLOCK
        device = base.weight.device
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        bnb = _bitsandbytes()
        self.inner = bnb.nn.Linear4bit(
            base.in_features + self.padding,
            base.out_features,
            bias=False,  # it would be cast in place
            compute_dtype=torch.bfloat16 if bf16 else torch.float32,
            device="meta",  # its weight is the next line's
        )
        self.inner.weight = bnb.nn.Params4bit(
            F.pad(base.weight.detach(), (0, self.padding)).clone(),
            requires_grad=False,
            blocksize=BLOCK,
            compress_statistics=double_quant,
            quant_type="nf4",
            module=self.inner,
        )
        self.inner.to(device)  # this is what quantises
        self.bias = base.bias

    @property
    def weight(self) -> Tensor:
        """An empty tensor of the type that goes in and comes out: some networks ask a layer's weight for its type."""
        return torch.empty(0)

    def train(self, mode: bool = True) -> Self:
        """Stay in training mode: in evaluation some CPUs repack the weight, in place, for a coarser kernel."""
        return super().train(True)

    def merged(self, member: int) -> nn.Linear:
        """Return the layer with its weight in full precision again, the same for every member."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        weight = self.inner.weight
        plain = _bitsandbytes().functional.dequantize_4bit(weight.data, weight.quant_state)
        layer.weight = nn.Parameter(plain[:, : self.in_features].float(), requires_grad=False)
        layer.bias = self.bias
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        y = self.inner(F.pad(x, (0, self.padding)) if self.padding else x)
        return y if self.bias is None else y + self.bias
