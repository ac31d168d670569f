"""What the documentation says to write, run."""

import re
from pathlib import Path

import pytest

CRATE = Path(__file__).parents[1]


def examples(file):
    return re.findall(r"```python\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL)


def test_readme():
    (example,) = examples(CRATE / "README.md")
    exec(example, {})


def test_training_loops():
    """The worked example, three epochs of it, on a tiny network."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    tiny = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    models = diffusers.UNet2DModel(**tiny), diffusers.UNet2DModel(**tiny, num_class_embeds=3)
    images = torch.rand(96, 1, 8, 8) * 2 - 1
    labels = torch.randint(3, (96,))
    names = {
        "torch": torch,
        "F": torch.nn.functional,
        "model": models[0],
        "conditional_model": models[1],
        "scheduler": diffusers.DDPMScheduler(),
        "optimizer": torch.optim.AdamW([p for model in models for p in model.parameters()], lr=1e-3),
        "loader": images.split(32),
        "labelled_loader": list(zip(images.split(32), labels.split(32))),
        "dataset": list(images.repeat(6, 1, 1, 1)),
    }
    plain, by_class, ahead, knn = examples(CRATE.parents[1] / "docs/python.md")
    losses = {}
    for name, example in [("plain", plain), ("by_class", by_class)]:
        losses[name] = []
        for _ in range(3):
            exec(example, names)
            losses[name].append(names["loss"].item())
        assert losses[name][-1] < losses[name][0], losses
    exec(ahead, names)
    (batch, noise), *_ = names["loader"]
    assert (batch * noise).mean() > 0.1
    exec(knn, names)
    assert (names["images"] * names["noise"]).mean() > 0.05
