"""FLOPs of matrix products, convolutions and attention, a multiplication and an addition counted as two."""

from __future__ import annotations

import contextlib
import inspect
from math import prod
from typing import Any, Self

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    _FlopCounterMode,
    conv_flop_count,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

Shape = list[int]


class _NoModules(contextlib.nullcontext[None]):
    """Stands in for the tracker of modules, whose hooks fail in inference mode on inputs that train."""

    parents = ("Global",)


class _Dispatch(_FlopCounterMode):
    """torch's own, without the wrapper that imports torch's compiler first: a second, and nothing here is compiled."""

    __torch_dispatch__ = inspect.unwrap(_FlopCounterMode.__torch_dispatch__)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class FlopCounter(FlopCounterMode):
    """Counts the FLOPs of what runs within it, which computes what it computes without it.

    torch's own counter, and what that one gets wrong: attention on a CPU and the fast paths of
    `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` count as nothing there, and the gradient of a
    grouped convolution's weight counts once too often for each group.
    """

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=FORMULAS)
        self.mod_tracker = _NoModules()  # type: ignore[assignment]

    def __enter__(self) -> Self:
        self.flop_counts.clear()
        self.mode = _Dispatch(self)
        self.mode.__enter__()
        return self


def _convolution_backward(grad_out: Shape, x: Shape, weight: Shape, *args: Any, **kwargs: Any) -> int:
    # Each of the two gradients takes the multiplications of the forward pass once more, whatever the groups.
    transposed, wanted = args[4], args[7]
    return conv_flop_count(x, weight, grad_out, transposed) * (wanted[0] + wanted[1])


def _attention(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad_out: Shape, query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(grad_out, query, key, value)


def _multi_head_attention(query: Shape, key: Shape, value: Shape, width: int, *args: Any, **kwargs: Any) -> int:
    # Four projections, then the scores and the weighted values of all heads.
    rows, tokens = query[0], query[1]
    return 2 * rows * (4 * tokens * width**2 + 2 * tokens * key[1] * width)


def _encoder_layer(x: Shape, width: int, *args: Any, **kwargs: Any) -> int:
    mlp_in, mlp_out = args[12], args[14]
    return _multi_head_attention(x, x, x, width) + 2 * prod(x[:-1]) * (prod(mlp_in) + prod(mlp_out))


_aten = torch.ops.aten
FORMULAS = {
    _aten.convolution_backward: _convolution_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten._native_multi_head_attention: _multi_head_attention,
    _aten._transformer_encoder_layer_fwd: _encoder_layer,
}
