"""Writes the folders autoencoder_kl*, and autoencoder_kl_defaults.json.

io.safetensors has the images `x`, the `mean` and `logvar` of their posterior and its `kl` per sample, the
`sample` that `noise` draws from it, what diffusion would run on (`latents`), the decoded images `out`, and
gradients of mean(out²), which passes through all of it.

    pip install torch diffusers
    python autoencoder_kl.py [FOLDER]
"""

import re

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from golden import destination, emptied, gradients, save_io, shake, write_defaults

torch.manual_seed(0)


def blocks(resolutions):
    return {
        "down_block_types": ("DownEncoderBlock2D",) * resolutions,
        "up_block_types": ("UpDecoderBlock2D",) * resolutions,
    }


NETWORKS = {
    # As in Stable Diffusion 1: three resolutions that change the channels, both quantisation layers.
    "autoencoder_kl": AutoencoderKL(
        **blocks(3),
        block_out_channels=(4, 8, 8),
        norm_num_groups=4,
        sample_size=16,
    ),
    # As in later models: no quantisation layers, a shift. One resolution, no attention.
    "autoencoder_kl_flat": AutoencoderKL(
        **blocks(1),
        in_channels=1,
        out_channels=2,
        block_out_channels=(12,),
        layers_per_block=2,
        latent_channels=3,
        norm_num_groups=3,
        sample_size=8,
        scaling_factor=0.5,
        shift_factor=0.125,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    ),
    # The weights of attention under the names of the package's first versions, which published folders still
    # have. Fewer channels below than above, several layers, one of the quantisation layers.
    "autoencoder_kl_former": AutoencoderKL(
        **blocks(2),
        block_out_channels=(12, 8),
        layers_per_block=2,
        latent_channels=2,
        norm_num_groups=2,
        sample_size=8,
        scaling_factor=1.5,
        use_post_quant_conv=False,
    ),
}

FORMER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def expose(network):
    """Values at which the ε of group norms and the clamp of log-variances are seen."""
    with torch.no_grad():
        # The inputs of the first group norms are faint.
        for part in (network.encoder, network.decoder):
            for parameter in part.conv_in.parameters():
                parameter.mul_(0.01)
        # The log-variance of one channel is below the range it is clamped to.
        last = network.encoder.conv_out if network.quant_conv is None else network.quant_conv
        last.bias[-1] -= 60.0


def graded(network):
    """One weight per block: of its last layer, or the first of its attention."""
    picked = {}
    for name, _ in network.named_parameters():
        match = re.match(r"((encoder|decoder)\.(\w+_blocks?(\.\d+)?)\.(resnets|attentions|\w+samplers))\.", name)
        block = match[1] if match else name.rsplit(".", 1)[0]
        if name.endswith("to_q.weight" if "attentions" in name else ".weight"):
            picked[block] = name
    return picked.values()


def main():
    root = destination()
    for name, network in NETWORKS.items():
        network.eval()
        shake(network)
        expose(network)
        config = network.config
        x = torch.randn(2, config.in_channels, config.sample_size, config.sample_size - 4)
        posterior = network.encode(x).latent_dist
        noise = torch.randn_like(posterior.mean)
        sample = posterior.mean + posterior.std * noise
        out = network.decode(sample).sample
        io = {
            "x": x,
            "mean": posterior.mean,
            "logvar": posterior.logvar,
            "kl": posterior.kl(),
            "noise": noise,
            "sample": sample,
            "latents": (sample - (config.shift_factor or 0.0)) * config.scaling_factor,
            "out": out,
            **gradients(network, out.square().mean(), graded(network)),
        }
        folder = emptied(root / name)
        network.save_pretrained(folder)
        save_io(folder, io)

        if name.endswith("former"):
            path = folder / "diffusion_pytorch_model.safetensors"
            pattern = re.compile(r"(?<=attentions\.0\.)(" + "|".join(map(re.escape, FORMER)) + r")(?=\.)")
            weights = {pattern.sub(lambda m: FORMER[m[0]], key): tensor for key, tensor in load_file(path).items()}
            save_file(weights, path, metadata={"format": "pt"})
            again = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).eval()
            assert torch.equal(again.decode(sample).sample, out), "the package reads these names no more"

    write_defaults(root / "autoencoder_kl_defaults.json", AutoencoderKL)


if __name__ == "__main__":
    main()
