"""`import torchvision` beside a CPU-only torch, in a fresh process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from sweeper.torchvision_ops import declare_missing_ops
declare_missing_ops()
declare_missing_ops()
import torch, torchvision
from torchvision.transforms import v2
assert torchvision.models.resnet18()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
turned = v2.Compose([v2.RandomRotation((25, 25)), v2.ToDtype(torch.float32, scale=True)])(torch.zeros(3, 8, 8))
assert turned.shape == (3, 8, 8)
print("works")
"""


def test_torchvision_imports_and_its_models_and_transforms_work() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.stdout == "works\n", done.stderr
