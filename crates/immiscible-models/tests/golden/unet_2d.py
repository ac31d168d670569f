"""Writes the folders of unet_2d/ next to this file, and `save`, which unet_2d_condition.py uses too.

Each folder is a small seeded network as the Python package saves it (config.json and
diffusion_pytorch_model.safetensors), and io.safetensors: the inputs `x`, `u` and, where the network takes
one, `class` or `embedding`; the output `pred`; and for the loss mean(pred²) the gradient of one weight per
block, `grad.` and the weight's name.

    pip install torch diffusers
    python unet_2d.py
"""

from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

HERE = Path(__file__).parent
SIZE = 4

ONE = {
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
}
TWO = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}
ATTENTION = {
    "block_out_channels": (8, 8),
    "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
}
BASE = {
    "sample_size": SIZE,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "time_embedding_dim": 8,
    "attention_head_dim": 4,
    "add_attention": False,
}

CASES = {
    # Attention on both ways and in the middle with one head, other numbers of channels and groups.
    "attention": ATTENTION | {"add_attention": True, "attention_head_dim": None, "norm_num_groups": 2, "norm_eps": 1e-6},
    # Other channels per resolution, so that blocks have convolutional shortcuts; a table of classes.
    "channels": TWO | {"block_out_channels": (4, 8), "in_channels": 1, "out_channels": 2, "num_class_embeds": 5},
    # Three layers per resolution.
    "layers": ONE | {"layers_per_block": 3},
    # Padding on one side, frequencies and order of Ho et al. (2020).
    "ddpm": TWO | {"downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False, "norm_eps": 1e-6},
    # ADM (Dhariwal & Nichol 2021): residual blocks that change the resolution, scale and shift, a norm of
    # its own before the middle block's attention; a resolution with attention and one without.
    "adm": {
        "block_out_channels": (8, 8),
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 2,
        "add_attention": True,
        "num_class_embeds": 5,
    },
    # The same kind of layers inside blocks with attention; no norm before the middle block's attention.
    "resnet_samplers": ATTENTION
    | {
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "add_attention": True,
    },
    # Fourier features, as NCSN++ (Song et al. 2021), and its scale of the middle block.
    "fourier": ONE | {"time_embedding_type": "fourier", "mid_block_scale_factor": 1.41421, "add_attention": True},
    "learned": ONE | {"time_embedding_type": "learned", "num_train_timesteps": 1000, "act_fn": "relu"},
    "class_timestep": ONE | {"class_embed_type": "timestep", "act_fn": "mish", "time_embedding_dim": None},
    "class_identity": ONE | {"class_embed_type": "identity", "act_fn": "gelu", "center_input_sample": True},
    # No middle block, another name of SiLU.
    "no_middle": TWO | {"mid_block_type": None, "act_fn": "swish", "block_out_channels": (8, 4)},
    # Three resolutions, with attention at one of them.
    "three": {
        "block_out_channels": (4, 8, 4),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 2,
        "num_class_embeds": 3,
    },
}


def shake(network):
    """Weights larger than at initialisation, so that no path is too faint to be tested."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name == "time_proj.weight" and parameter.dim() == 1:
                continue  # frequencies
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))


def graded(network):
    """One weight per block: of the attention if it has one, else of a convolution."""
    names = [name for name, _ in network.named_parameters()]
    blocks = ["time_embedding", "class_embedding", "conv_in", "mid_block", "conv_norm_out", "conv_out"]
    blocks += [f"{way}_blocks.{i}" for way in ("down", "up") for i in range(len(network.down_blocks))]
    endings = ("attn2.to_k.weight", "attentions.0.to_q.weight", "resnets.0.conv1.weight", "linear_1.weight", "weight")
    for block in blocks:
        own = [name for name in names if name.startswith(block + ".")]
        yield from next(([hits[0]] for end in endings if (hits := [name for name in own if name.endswith(end)])), [])
    yield from (name for name in names if "samplers.0" in name and name.endswith(("conv.bias", "conv1.bias")))


def save(folder, network, u, inputs, **arguments):
    """Runs the network and writes its folder."""
    x = torch.randn(len(u), network.config.in_channels, SIZE, SIZE)
    pred = network(x, u, **arguments).sample
    pred.square().mean().backward()
    parameters = dict(network.named_parameters())
    io = {"x": x, "u": u.float(), "pred": pred.detach().contiguous()} | inputs
    io |= {f"grad.{name}": parameters[name].grad.contiguous() for name in graded(network)}
    network.save_pretrained(folder)
    save_file(io, folder / "io.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.name}: {size / 1024:.0f} KB, mean |pred| {pred.abs().mean():.3f}, {len(io)} tensors")


def main():
    for number, (name, settings) in enumerate(CASES.items()):
        torch.manual_seed(number)
        network = UNet2DModel(**(BASE | settings)).eval()
        shake(network)
        config = network.config
        u = torch.tensor([0.0, 421.5, 1000.0])
        if config.time_embedding_type == "fourier":
            u = torch.tensor([0.02, 1.3, 40.0])
        elif config.time_embedding_type == "learned":
            u = torch.tensor([0, 421, 999])
        inputs, labels = {}, None
        if config.class_embed_type == "identity":
            labels = torch.randn(3, 8)
            inputs["embedding"] = labels
        elif config.class_embed_type == "timestep" or config.num_class_embeds:
            labels = torch.tensor([1, 2, 0])
            inputs["class"] = labels.int()
        save(HERE / "unet_2d" / name, network, u, inputs, class_labels=labels)


if __name__ == "__main__":
    main()
