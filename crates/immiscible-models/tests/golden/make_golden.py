"""Writes the folders unet, unet_ddpm and dit, and defaults.json, next to this file.

Each folder is a small seeded network as the Python package saves it (config.json and
diffusion_pytorch_model.safetensors), and io.safetensors with inputs and outputs: `x`, `u`, `class`,
`pred`, and `grad_norm`, the norm of the gradient of mean(pred²) over all weights. defaults.json holds the
defaults of the networks' settings.

    pip install torch diffusers
    python make_golden.py
"""

import inspect
import json
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file

HERE = Path(__file__).parent
torch.manual_seed(0)

NETWORKS = {
    # Every kind of block and layer: attention at one of two resolutions, two heads, convolutional
    # shortcuts on both ways, down- and up-sampling, a class embedding with a null class.
    "unet": UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 12),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=6,
        num_class_embeds=11,
    ),
    # The other values of the settings that change the arithmetic.
    "unet_ddpm": UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2,
        block_out_channels=(8, 8),
        down_block_types=("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        layers_per_block=1,
        time_embedding_dim=8,
        norm_num_groups=2,
        norm_eps=1e-6,
        attention_head_dim=None,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
        add_attention=False,
    ),
    "dit": DiTTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=3,
        out_channels=6,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=6,
        num_embeds_ada_norm=10,
    ),
}


def main():
    for name, network in NETWORKS.items():
        network.eval()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    # Larger than at initialisation, so that no path is too faint to be tested.
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
                else:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        x = torch.randn(3, network.config.in_channels, 8, 8)
        u = torch.tensor([0.0, 421.5, 1000.0])
        labels = torch.tensor([3, 10, 0])
        pred = network(x, u, class_labels=None if name == "unet_ddpm" else labels).sample
        pred.square().mean().backward()
        squares = [p.grad.double().square().sum() for p in network.parameters()]
        grad_norm = torch.stack(squares).sum().sqrt().float().reshape(1)

        folder = HERE / name
        network.save_pretrained(folder)
        io = {"x": x, "u": u, "class": labels.int(), "pred": pred.detach().contiguous(), "grad_norm": grad_norm}
        save_file(io, folder / "io.safetensors")
        print(name, sum(p.numel() for p in network.parameters()), "parameters, mean |pred|", pred.abs().mean().item())

    defaults = {
        kind.__name__: {
            key: parameter.default
            for key, parameter in inspect.signature(kind.__init__).parameters.items()
            if key != "self"
        }
        for kind in (UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel)
    }
    (HERE / "defaults.json").write_text(json.dumps(defaults, indent=2) + "\n")


if __name__ == "__main__":
    main()
