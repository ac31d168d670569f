"""Writes the folders of unet_2d_condition/, and unet_2d_condition_defaults.json.

io.safetensors has the tensors that unet_2d.py tells, and among the inputs `text`, the states of a text encoder.

    pip install torch diffusers
    python unet_2d_condition.py [FOLDER]
"""

import torch
from diffusers import UNet2DConditionModel

from golden import destination, emptied, save_denoiser, shake, unet_weights, write_defaults

TEXT = 8
ONE = {
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "mid_block_type": "UNetMidBlock2D",
}
TWO = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
}
CROSS_DOWN = {"down_block_types": ("CrossAttnDownBlock2D",)}
CROSS_UP = {"up_block_types": ("CrossAttnUpBlock2D",)}
CROSS_MID = {"mid_block_type": "UNetMidBlock2DCrossAttn"}
BASE = {
    "sample_size": 4,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "time_embedding_dim": 8,
    "attention_head_dim": 2,
    "cross_attention_dim": TEXT,
}

CASES = {
    # Every kind of block of Stable Diffusion 1.
    "sd1": TWO | CROSS_MID | {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    | {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 4},
    # Stable Diffusion 2: heads per resolution, linear projections, attention in single precision.
    "sd2": TWO | {"block_out_channels": (4, 8), "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D")}
    | {"attention_head_dim": (1, 4), "use_linear_projection": True, "upcast_attention": True, "norm_num_groups": 2},
    "down": ONE | CROSS_DOWN | {"norm_eps": 1e-6, "attention_head_dim": 1},
    "middle": ONE | CROSS_MID | {"mid_block_scale_factor": 1.5, "in_channels": 4, "out_channels": 2},
    "up": ONE | CROSS_UP | {"use_linear_projection": True, "flip_sin_to_cos": False, "freq_shift": 1},
    # Other channels per resolution and of the text, heads per resolution on the way up.
    "channels": TWO | {"block_out_channels": (4, 8), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    | {"attention_head_dim": (3, 8), "cross_attention_dim": 12, "norm_num_groups": 4, "downsample_padding": 0},
    # Numbers of layers per resolution.
    "layers": TWO | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "layers_per_block": (2, 1)}
    | {"block_out_channels": (4, 8), "transformer_layers_per_block": (1, 2), "cross_attention_dim": (8, 8)},
    # Attention to the text only, on the ways but not in the middle.
    "only_cross": TWO | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "block_out_channels": (4, 8)}
    | CROSS_MID | {"only_cross_attention": (False, True)},
    "scale_shift": ONE | CROSS_DOWN | {"resnet_time_scale_shift": "scale_shift", "act_fn": "gelu"},
    # Without a text: a token of zeros, next to each kind of class.
    "class_table": ONE | CROSS_MID | {"num_class_embeds": 5, "act_fn": "mish", "only_cross_attention": True},
    "class_timestep": ONE | CROSS_UP | {"class_embed_type": "timestep", "act_fn": "relu", "time_embedding_dim": None},
    "class_identity": ONE | CROSS_DOWN | {"class_embed_type": "identity", "act_fn": "swish", "mid_block_type": None}
    | {"center_input_sample": True},
}


def main():
    root = destination()
    family = emptied(root / "unet_2d_condition")
    for number, (name, settings) in enumerate(CASES.items()):
        torch.manual_seed(100 + number)
        network = UNet2DConditionModel(**(BASE | settings)).eval()
        shake(network)
        width = settings.get("cross_attention_dim", TEXT)
        width = width if isinstance(width, int) else width[0]
        inputs, labels, text = {}, None, torch.zeros(3, 1, width)
        if name.startswith("class_identity"):
            labels = inputs["embedding"] = torch.randn(3, 8)
        elif name.startswith("class"):
            labels = torch.tensor([1, 2, 0])
            inputs["class"] = labels.int()
        else:
            text = inputs["text"] = torch.randn(3, 5, width)
        u = torch.tensor([0.0, 421.5, 1000.0])
        arguments = {"encoder_hidden_states": text, "class_labels": labels}
        save_denoiser(family / name, network, u, inputs, unet_weights(network), **arguments)
    write_defaults(root / "unet_2d_condition_defaults.json", UNet2DConditionModel)


if __name__ == "__main__":
    main()
