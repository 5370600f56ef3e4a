"""Weights out of an ONNX file, against a file written by hand."""

from __future__ import annotations

import pytest
import torch

from sweeper.models import minilm_l3


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | minilm_l3.LENGTH) + varint(len(value)) + value


def tensor(name: str, value: torch.Tensor, kind: int = minilm_l3.FLOAT) -> bytes:
    message = b"".join(field(minilm_l3.DIMS, size) for size in value.shape)
    message += field(minilm_l3.DATA_TYPE, kind) + field(minilm_l3.NAME, name.encode())
    return field(minilm_l3.INITIALIZER, message + field(minilm_l3.RAW_DATA, value.numpy().tobytes()))


def file(matrices: int = 18, kind: int = minilm_l3.FLOAT) -> bytes:
    graph = tensor(f"{minilm_l3.PREFIX}embeddings.LayerNorm.bias", torch.arange(200.0))
    for number in range(matrices):
        graph += tensor(f"onnx::MatMul_{number}", torch.arange(6.0).view(2, 3) + 10 * number, kind)
    fixed = varint(3 << 3 | minilm_l3.FIXED32) + b"abcd"  # of no use here
    return field(1, 8) + fixed + field(minilm_l3.GRAPH, graph)


def test_matrices_without_a_name_go_by_their_order_and_stand_transposed() -> None:
    found = minilm_l3.weights(file())
    assert torch.equal(found["embeddings.LayerNorm.bias"], torch.arange(200.0))
    expected = (torch.arange(6.0).view(2, 3) + 10 * 8).T
    assert torch.equal(found["encoder.layer.1.attention.self.value.weight"], expected)
    assert len(found) == 19


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no graph"),
        (file(matrices=17), "17 nameless matrices"),
        (file(kind=10), "no float32"),
        (b"\xff", "ends too early"),
        (varint(1 << 3 | 3), "no ONNX file"),
    ],
)
def test_another_file_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        minilm_l3.weights(content)
