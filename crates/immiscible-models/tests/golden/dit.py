"""Writes the folders of dit/, and dit_defaults.json.

io.safetensors has the inputs `x`, `u` and `class`, the output `pred`, and gradients of mean(pred²). Without
`class` every label is the null class.

    pip install torch diffusers
    python dit.py [FOLDER]
"""

import torch
from diffusers import DiTTransformer2DModel

from golden import destination, emptied, save_denoiser, shake, write_defaults

BASE = {
    "sample_size": 8,
    "in_channels": 3,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 6,
    "num_embeds_ada_norm": 10,
}

CASES = {
    # Twice the channels: a variance is learned beside the noise (Nichol & Dhariwal 2021).
    "learned_sigma": {"patch_size": 2, "out_channels": 6},
    # Latents' channels, more heads than layers, the other GELU, no biases of queries, keys and values.
    "patch_4": {
        "sample_size": 12,
        "patch_size": 4,
        "in_channels": 4,
        "num_layers": 1,
        "num_attention_heads": 3,
        "attention_head_dim": 4,
        "activation_fn": "gelu",
        "attention_bias": False,
    },
    # One head, more layers, a layer norm of its own before the feed-forward layers.
    "patch_8": {
        "sample_size": 16,
        "patch_size": 8,
        "in_channels": 1,
        "out_channels": 2,
        "num_layers": 3,
        "num_attention_heads": 1,
        "attention_head_dim": 8,
        "norm_eps": 1e-2,
    },
    # A patch for each pixel, and the other GELU; no labels.
    "null_class": {"sample_size": 4, "patch_size": 1, "activation_fn": "gelu", "num_embeds_ada_norm": 3},
    # Larger images than those of the positions' embedding.
    "larger_images": {"patch_size": 2, "num_attention_heads": 4, "attention_head_dim": 2},
}


def graded(network):
    """One weight per block."""
    yield "pos_embed.proj.weight"
    for i in range(network.config.num_layers):
        for part in (
            "norm1.emb.timestep_embedder.linear_2",
            "norm1.emb.class_embedder.embedding_table",
            "norm1.linear",
            "attn1.to_q",
            "ff.net.0.proj",
        ):
            yield f"transformer_blocks.{i}.{part}.weight"
    yield from ("proj_out_1.weight", "proj_out_2.weight")


def main():
    root = destination()
    family = emptied(root / "dit")
    for number, (name, settings) in enumerate(CASES.items()):
        torch.manual_seed(200 + number)
        network = DiTTransformer2DModel(**(BASE | settings)).eval()
        shake(network)
        null = network.config.num_embeds_ada_norm
        inputs, labels = {}, torch.tensor([null, null, null])
        if name != "null_class":
            labels = torch.tensor([3, null, 0])
            inputs["class"] = labels.int()
        u = torch.tensor([0.0, 421.5, 1000.0])
        size = 12 if name == "larger_images" else None
        save_denoiser(family / name, network, u, inputs, graded(network), size, class_labels=labels)
    write_defaults(root / "dit_defaults.json", DiTTransformer2DModel)


if __name__ == "__main__":
    main()
