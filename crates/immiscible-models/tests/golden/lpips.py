"""Writes lpips.safetensors and lpips_io.safetensors next to this file, or into the folder that is given.

lpips.safetensors is a state dict with the names of `lpips.LPIPS(net="vgg")` for features with few channels and random
weights. lpips_io.safetensors holds two batches of images `a` and `b`, their `distance` after Zhang et al. 2018 (arXiv
1801.03924, eq. 1) computed with PyTorch's own layers, and `grad.a`, the gradient of the sum of the distances.

    pip install torch safetensors
    python lpips.py
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
torch.manual_seed(0)

CHANNELS = [4, 6, 8, 8, 8]
LAYERS = [[0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]]

state = {
    "scaling_layer.shift": torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None],
    "scaling_layer.scale": torch.tensor([0.458, 0.448, 0.450])[None, :, None, None],
}
before = 3
for depth, (layers, width) in enumerate(zip(LAYERS, CHANNELS)):
    for layer in layers:
        name = f"net.slice{depth + 1}.{layer}"
        state[f"{name}.weight"] = torch.randn(width, before, 3, 3) * (2 / (9 * before)) ** 0.5
        state[f"{name}.bias"] = torch.randn(width) * 0.1
        before = width
    head = torch.rand(1, width, 1, 1)
    state[f"lin{depth}.model.1.weight"] = head
    state[f"lins.{depth}.model.1.weight"] = head.clone()


def features(x):
    x = (x - state["scaling_layer.shift"]) / state["scaling_layer.scale"]
    for depth, layers in enumerate(LAYERS):
        if depth > 0:
            x = F.max_pool2d(x, 2, 2)
        for layer in layers:
            name = f"net.slice{depth + 1}.{layer}"
            x = F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1))
        yield x


def distance(a, b):
    total = 0
    for depth, (x, y) in enumerate(zip(features(a), features(b))):
        x, y = (v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10) for v in (x, y))
        weighted = F.conv2d((x - y).square(), state[f"lin{depth}.model.1.weight"])
        total = total + weighted.mean((1, 2, 3))
    return total


a = (torch.rand(2, 3, 36, 32) * 2 - 1).requires_grad_()
b = torch.rand(2, 3, 36, 32) * 2 - 1
d = distance(a, b)
d.sum().backward()
save_file(state, OUT / "lpips.safetensors")
save_file({"a": a.detach(), "b": b, "distance": d.detach(), "grad.a": a.grad}, OUT / "lpips_io.safetensors")
