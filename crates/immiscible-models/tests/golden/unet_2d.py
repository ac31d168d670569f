"""Writes the folders of unet_2d/, and unet_2d_defaults.json.

io.safetensors has the inputs `x`, `u` and, where the network takes one, `class` or `embedding`; the output
`pred`; and gradients of mean(pred²).

    pip install torch diffusers
    python unet_2d.py [FOLDER]
"""

import torch
from diffusers import UNet2DModel

from golden import destination, emptied, save_denoiser, shake, unet_weights, write_defaults

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
    "sample_size": 4,
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
    # Larger images; attention at one of two resolutions, whose channels are no power of two, and in the middle.
    "larger_images": TWO
    | {
        "sample_size": 8,
        "block_out_channels": (8, 12),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 6,
        "add_attention": True,
        "num_class_embeds": 11,
        "time_embedding_dim": None,
    },
    # The settings of Ho et al. (2020) with attention, at the first of two resolutions.
    "ddpm_attention": TWO
    | {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 2,
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "norm_num_groups": 2,
        "norm_eps": 1e-6,
        "attention_head_dim": None,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "downsample_padding": 0,
    },
}


def main():
    root = destination()
    family = emptied(root / "unet_2d")
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
        save_denoiser(family / name, network, u, inputs, unet_weights(network), class_labels=labels)
    write_defaults(root / "unet_2d_defaults.json", UNet2DModel)


if __name__ == "__main__":
    main()
