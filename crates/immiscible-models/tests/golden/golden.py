"""A golden: a small seeded model as the Python package saves it, and io.safetensors with what it computes.

io.safetensors holds inputs, outputs and, for a fixed loss, the gradient of one weight per block, as `grad.` and
the weight's name. The scripts of this folder write a family of them each, and its defaults.
"""

import argparse
import inspect
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file


def destination():
    """The folder to write to: the one on the command line, else that of the scripts."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, help="default: %(default)s")
    return parser.parse_args().folder


def emptied(folder):
    """The folder without what an earlier version of its script left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def shake(model, unit=()):
    """Weights larger than at initialisation, so that no path is too faint to be tested.

    Matrices whose names contain one of `unit` have variance 1, the others that of a row's inverse length.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue  # fixed frequencies
            if any(part in name for part in unit):
                parameter.normal_()
            elif parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))


def gradients(model, loss, names):
    """Those of the named weights."""
    loss.backward()
    parameters = dict(model.named_parameters())
    return {f"grad.{name}": parameters[name].grad for name in names}


def save_io(folder, io):
    """Writes io.safetensors into the folder of a saved model."""
    save_file({name: tensor.detach().contiguous() for name, tensor in io.items()}, folder / "io.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    gradient = min(tensor.abs().mean() for name, tensor in io.items() if name.startswith("grad."))
    print(f"{folder.name}: {size / 1024:.0f} KiB, {len(io)} tensors, smallest mean |grad| {gradient:.1e}")


def save_denoiser(folder, network, u, inputs, graded, size=None, **arguments):
    """A network that predicts noise, and what it predicts for images at the times `u`; the loss is mean(pred²).

    `inputs` are further inputs under the names of io.safetensors, `arguments` the same for the network's forward.
    The images have the network's own size unless `size` tells another.
    """
    size = size or network.config.sample_size
    x = torch.randn(len(u), network.config.in_channels, size, size)
    pred = network(x, u, **arguments).sample
    grads = gradients(network, pred.square().mean(), graded)
    network.save_pretrained(folder)
    save_io(folder, {"x": x, "u": u.float(), "pred": pred} | inputs | grads)


def unet_weights(network):
    """One weight per block of a UNet: of the attention if it has one, else of a convolution."""
    names = [name for name, _ in network.named_parameters()]
    blocks = ["time_embedding", "class_embedding", "conv_in", "mid_block", "conv_norm_out", "conv_out"]
    blocks += [f"{way}_blocks.{i}" for way in ("down", "up") for i in range(len(network.down_blocks))]
    endings = ("attn2.to_k.weight", "attentions.0.to_q.weight", "resnets.0.conv1.weight", "linear_1.weight", "weight")
    for block in blocks:
        own = [name for name in names if name.startswith(block + ".")]
        yield from next(([hits[0]] for end in endings if (hits := [name for name in own if name.endswith(end)])), [])
    yield from (name for name in names if "samplers.0" in name and name.endswith(("conv.bias", "conv1.bias")))


def write_json(path, value, **options):
    path.write_text(json.dumps(value, **options) + "\n", encoding="utf-8")


def write_defaults(path, kind):
    """The defaults of the settings of a class of diffusers."""
    parameters = inspect.signature(kind.__init__).parameters
    write_json(path, {key: p.default for key, p in parameters.items() if key != "self"}, indent=2)
