"""What devices can do, as their makers say.

Memory in bytes, dense tensor FLOP/s in 16 bits (bfloat16, or float16 where there is no bfloat16), FLOP/s in float32
without tensor cores, bytes/s of memory. From NVIDIA's data sheets, tensor TFLOP/s and GB/s: T4 (65, 320), V100 SXM2
(125, 900), A10 (125, 600), L4 (121, 300), L40S (362, 864), A100 SXM (312, 1,555 and 2,039), H100 SXM (989, 3,350), H200
SXM (989, 4,800), RTX 3090 (71 with float32 sums, 936: GA102 white paper), RTX 4090 (165 with float32 sums, 1,008: Ada
white paper). Where only the sparse figure stands there, half of it. Memory is what the driver leaves for programs.
"cpu" is two cores with AVX2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A device by what bounds the time and the memory of training on it."""

    name: str
    memory: float
    half_flops: float
    float_flops: float
    bandwidth: float


def _gb(name: str, gib: float, half: float, single: float, gb_s: float) -> Device:
    return Device(name, gib * 2**30, half * 1e12, single * 1e12, gb_s * 1e9)


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        _gb("t4", 15, 65, 8.1, 320),
        _gb("v100", 16, 125, 15.7, 900),
        _gb("a10", 22.5, 125, 31.2, 600),
        _gb("l4", 22.5, 121, 30.3, 300),
        _gb("l40s", 44.5, 362, 91.6, 864),
        _gb("a100-40gb", 39.5, 312, 19.5, 1_555),
        _gb("a100-80gb", 79.2, 312, 19.5, 2_039),
        _gb("h100", 79.2, 989, 66.9, 3_350),
        _gb("h200", 139.8, 989, 66.9, 4_800),
        _gb("rtx3090", 23.6, 71, 35.6, 936),
        _gb("rtx4090", 23.6, 165, 82.6, 1_008),
        _gb("cpu", 8, 0.15, 0.15, 20),
    )
}


def find_device(name: str) -> Device:
    """Return a device by name, in any spelling: "L40S", "A100-80GB", "a100 80gb".

    Raises:
        ValueError: there is no such device here.
    """
    wanted = "".join(c for c in name.lower() if c.isalnum())
    for key, device in DEVICES.items():
        if wanted in (key.replace("-", ""), f"nvidia{key.replace('-', '')}"):
            return device
    raise ValueError(f"no device named {name!r:.50}. Available: {', '.join(DEVICES)}; or give --gpu-memory")
