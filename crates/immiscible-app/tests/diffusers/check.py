"""What the immiscible command exports opens in the Python package diffusers, and the other way round, with the same images.

    python check.py IMMISCIBLE      (the binary; needs torch and diffusers)

`cargo xtask test --diffusers` builds the binary, installs the packages and runs this.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ConsistencyModelPipeline, DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, DiTPipeline
from diffusers import DiTTransformer2DModel, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, HeunDiscreteScheduler
from diffusers import LDMPipeline, PNDMScheduler, StableDiffusionPipeline, UniPCMultistepScheduler
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.ddim import pipeline_ddim
from diffusers.pipelines.ddpm import pipeline_ddpm
from diffusers.pipelines.dit import pipeline_dit
from diffusers.utils.logging import disable_progress_bar
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOLERANCE = 1e-3
BINARY = Path(sys.argv[1]).resolve()


def immiscible(*arguments):
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"


def train(folder, name, *settings, preset="digits", export=()):
    sets = [word for setting in ("train.steps=10", "sample.n=4", *settings) for word in ("--set", setting)]
    immiscible("train", "--preset", preset, "--runs", folder / "runs", "--run", name, *sets)
    immiscible("export", folder / "runs" / name, "--to", folder / name, *export)
    return folder / name


def sampled(folder, x_T, *options):
    np.save(folder / "x_T.npy", x_T.numpy())
    out = folder / "samples.npy"
    immiscible("sample", "--model", folder, "--noise", folder / "x_T.npy", "--out", out, *options)
    return torch.from_numpy(np.load(out))


def images_of(samples):
    """On the scale of the package's pipelines."""
    return (samples / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def given_start(module, x_T):
    """The pipelines draw their start by a function of their module."""
    module.randn_tensor = lambda *_, **__: x_T


def compare(what, ours, theirs):
    error = (ours - theirs).abs().max().item()
    print(f"{what:52} max |difference| {error:.1e}  (images up to {theirs.abs().max().item():.2f})")
    assert error <= TOLERANCE, what


@torch.no_grad()
def walk(unet, scheduler, x, steps, labels=None, **options):
    """The loop that the package's pipelines run, on raw numbers."""
    scheduler.set_timesteps(steps)
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        prediction = unet(given, t, class_labels=labels).sample
        x = scheduler.step(prediction, t, x, **options).prev_sample
    return x


def loaded(model, folder):
    model, info = model.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


def exported_unets(folder):
    x_T = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for objective in ("epsilon", "x0", "v"):
        for schedule in ("linear", "cosine"):
            name = f"{objective}-{schedule}"
            run = ("sample.sampler=ddim", f"objective.name={objective}", f"schedule.name={schedule}")
            path = train(folder, name, *run)
            pipeline = DDIMPipeline.from_pretrained(path)
            loaded(UNet2DModel, path / "unet")
            theirs = walk(pipeline.unet, pipeline.scheduler, x_T, 10)
            compare(f"exported {name}: DDIMPipeline's network and scheduler", sampled(path, x_T, "--steps", 10), theirs)
            # The pipeline itself, from the same start, on its own scale.
            given_start(pipeline_ddim, x_T)
            pipeline.set_progress_bar_config(disable=True)
            images = pipeline(batch_size=8, num_inference_steps=10, output_type="np").images
            ours = images_of(sampled(path, x_T, "--steps", 10))
            compare(f"exported {name}: DDIMPipeline", ours, torch.from_numpy(images))

    path = train(folder, "ancestral", "sample.sampler=ddpm", "objective.name=epsilon", "schedule.name=linear")
    pipeline = DDPMPipeline.from_pretrained(path)
    ddim = DDIMScheduler.from_config(pipeline.scheduler.config)
    theirs = walk(pipeline.unet, ddim, x_T, 20)
    compare("exported ancestral: DDPMPipeline, with DDIM", sampled(path, x_T, "--sampler", "ddim", "--steps", 20), theirs)

    path = train(folder, "flow")
    pipeline = DDPMPipeline.from_pretrained(path)
    assert isinstance(pipeline.scheduler, FlowMatchHeunDiscreteScheduler)
    given_start(pipeline_ddpm, x_T)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=8, num_inference_steps=10, output_type="np").images
    ours = images_of(sampled(path, x_T, "--steps", 10))
    compare("exported flow: DDPMPipeline with flow matching", ours, torch.from_numpy(images))

    learned = ("loss.vlb_weight=0.001", "sample.variance=learned_range", "sample.spacing=linspace")
    path = train(folder, "learned", "sample.sampler=ddpm", "objective.name=epsilon", "schedule.name=linear", *learned)
    pipeline = DDPMPipeline.from_pretrained(path)
    assert pipeline.scheduler.config.variance_type == "learned_range"
    pipeline.set_progress_bar_config(disable=True)
    # Its steps are random; those of recorded noise are compared in the tests of immiscible-sample.
    assert np.isfinite(pipeline(batch_size=8, num_inference_steps=10, output_type="np").images).all()


def exported_consistency(folder):
    x_T = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    model = (
        "model={kind='unet',block_out_channels=[8,16],norm_num_groups=4,layers_per_block=1,attention_head_dim=4,"
        "down_block_types=['DownBlock2D','AttnDownBlock2D'],up_block_types=['AttnUpBlock2D','UpBlock2D']}"
    )
    method = ("method={kind='improved_consistency',s0=4,s1=16}", "ema.decay=0.5")
    method += ("optimizer.learning_rate=1e-2", "optimizer.warmup_steps=0")
    data = ("data={name='digits'}", "train.batch_size=16")
    path = train(folder, "consistency", model, *method, *data, preset="cifar10-consistency")
    pipeline = ConsistencyModelPipeline.from_pretrained(path)
    loaded(UNet2DModel, path / "unet")
    pipeline.set_progress_bar_config(disable=True)
    given_start(sys.modules[ConsistencyModelPipeline.__module__], x_T)
    images = pipeline(batch_size=8, num_inference_steps=1, output_type="np").images
    compare("exported consistency: ConsistencyModelPipeline", images_of(sampled(path, x_T)), torch.from_numpy(images))


def exported_transformer(folder):
    model = ("model={kind='dit',num_attention_heads=2,attention_head_dim=16,num_layers=2,patch_size=2}",)
    path = train(folder, "dit", *model, "train.class_dropout=0.1", "sample.sampler=euler")
    transformer = loaded(DiTTransformer2DModel, path)
    x_T = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(6)
    np.save(path / "labels.npy", labels.numpy())
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(path, subfolder="scheduler")
    scheduler.set_timesteps(8)
    x = x_T
    with torch.no_grad():
        for t in scheduler.timesteps:
            velocity = transformer(x, timestep=t.expand(6), class_labels=labels).sample
            x = scheduler.step(velocity, t, x).prev_sample
    compare("exported dit: DiTTransformer2DModel", sampled(path, x_T, "--steps", 8, "--labels", path / "labels.npy"), x)


def autoencoder(latent_channels):
    torch.manual_seed(4)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
    ).eval()


def exported_latents(folder):
    """The digits take the part of latents here."""
    autoencoder(1).save_pretrained(folder / "autoencoder")
    vae = ("--vae", folder / "autoencoder")
    discrete = ("sample.sampler=ddim", "objective.name=epsilon", "schedule.name=linear", "sample.clip=false")
    x_T = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(6)

    small = "kind='dit',num_attention_heads=2,attention_head_dim=16,num_layers=2,patch_size=2"
    for name, variance in (("latent dit", ()), ("latent dit with a variance", ("loss.vlb_weight=0.001",))):
        model = f"model={{{small},num_embeds_ada_norm=1000}}"
        path = train(folder, name, model, *discrete, *variance, export=vae)
        np.save(path / "labels.npy", labels.numpy())
        pipeline = DiTPipeline.from_pretrained(path)
        loaded(DiTTransformer2DModel, path / "transformer")
        assert pipeline.get_label_ids(["7"]) == [7]
        pipeline.set_progress_bar_config(disable=True)
        given_start(pipeline_dit, x_T)
        for guidance in (1, 4):
            options = ("--steps", 10, "--labels", path / "labels.npy", "--guidance", guidance)
            steps = dict(guidance_scale=guidance, num_inference_steps=10, output_type="np")
            images = pipeline(labels.tolist(), **steps).images
            ours = images_of(sampled(path, x_T, *options))
            compare(f"exported {name}: DiTPipeline, guidance {guidance}", ours, torch.from_numpy(images))

    path = train(folder, "latent unet", *discrete, export=vae)
    pipeline = LDMPipeline.from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    given_start(sys.modules[LDMPipeline.__module__], x_T)
    images = pipeline(batch_size=6, num_inference_steps=10, output_type="np").images
    ours = images_of(sampled(path, x_T, "--steps", 10))
    compare("exported latent unet: LDMPipeline", ours, torch.from_numpy(images))


def imported_latents(folder):
    torch.manual_seed(6)
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8, in_channels=4, out_channels=8
    ).eval()
    for weight in dit.parameters():
        weight.data.normal_(0, 0.1)
    path = folder / "imported learned variance"
    DiTPipeline(dit, autoencoder(4), DDIMScheduler(clip_sample=False), id2label={3: "three"}).save_pretrained(path)
    pipeline = DiTPipeline.from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    x_T = torch.randn(4, 4, 8, 8)
    given_start(pipeline_dit, x_T)
    images = pipeline([3] * 4, guidance_scale=2, num_inference_steps=10, output_type="np").images
    ours = images_of(sampled(path, x_T, "--steps", 10, "--class", 3, "--guidance", 2))
    compare("imported, DiTPipeline with a learned variance", ours, torch.from_numpy(images))

    tokens = Path(__file__).parents[3] / "immiscible-models/tests/golden/clip_tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(tokens)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()
    unet.conv_out.weight.data.mul_(0.1)
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    path = folder / "imported text"
    parts = dict(vae=autoencoder(4), text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
    extra = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    StableDiffusionPipeline(**parts, **extra).save_pretrained(path)
    # What this project reads it writes, and the package reads that.
    anew = folder / "imported text anew"
    immiscible("export", path, "--to", anew)
    loaded(UNet2DConditionModel, anew / "unet")
    loaded(AutoencoderKL, anew / "vae")
    loaded(CLIPTextModel, anew / "text_encoder")
    pipeline = StableDiffusionPipeline.from_pretrained(anew, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a photo of a cat", "Two dogs, in 1999!"]
    words = [word for prompt in prompts for word in ("--prompt", prompt)]
    for guidance in (1, 7.5):
        options = dict(guidance_scale=guidance, num_inference_steps=10, latents=x_T, output_type="np")
        images = pipeline(prompts * 2, **options).images
        ours = images_of(sampled(path, x_T, "--steps", 10, "--guidance", guidance, *words))
        compare(f"imported, StableDiffusionPipeline, guidance {guidance}", ours, torch.from_numpy(images))
    without = images_of(sampled(path, x_T, "--steps", 10, "--guidance", 7.5, "--prompt", ""))
    assert (without - torch.from_numpy(images)).abs().max() > TOLERANCE, "the prompt does not matter"


def imported(folder):
    torch.manual_seed(3)
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    # A tame prediction: that of random weights makes a walk of 30 steps magnify rounding a thousandfold.
    unet.conv_out.weight.data.mul_(0.1)
    x_T = torch.randn(4, 3, 8, 8)
    schedulers = {
        "leading": DDIMScheduler(),
        "trailing, 30 of 1000": DDIMScheduler(timestep_spacing="trailing"),
        "linspace, no clipping": DDIMScheduler(timestep_spacing="linspace", clip_sample=False),
        "offset, last alpha": DDIMScheduler(steps_offset=1, set_alpha_to_one=False, beta_schedule="scaled_linear"),
        "v, cosine": DDIMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"),
        "short linear": DDIMScheduler(num_train_timesteps=100, beta_start=1e-3, beta_end=0.05),
        "clip to 2": DDIMScheduler(clip_sample_range=2.0),
    }
    for name, scheduler in schedulers.items():
        path = folder / f"imported {name}"
        DDIMPipeline(unet, scheduler).save_pretrained(path)
        compare(f"imported, DDIM {name}", sampled(path, x_T, "--steps", 30), walk(unet, scheduler, x_T, 30))
    path = folder / "imported ddpm"
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(path)
    theirs = walk(unet, DDIMScheduler.from_config(DDPMScheduler().config), x_T, 10)
    compare("imported, DDPM with --sampler ddim", sampled(path, x_T, "--sampler", "ddim", "--steps", 10), theirs)
    for shift in (0.41, 1.0, 3.0):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        path = folder / f"imported flow {shift}"
        DDPMPipeline(unet, scheduler).save_pretrained(path)
        compare(f"imported, flow, shift {shift}", sampled(path, x_T, "--steps", 12), walk(unet, scheduler, x_T, 12))

    for name, scheduler in {
        "Euler, Karras": EulerDiscreteScheduler(use_karras_sigmas=True),
        "Heun": HeunDiscreteScheduler(timestep_spacing="trailing"),
        "PNDM": PNDMScheduler(),
        "DPM-Solver++": DPMSolverMultistepScheduler(beta_schedule="scaled_linear", use_karras_sigmas=True),
        "UniPC": UniPCMultistepScheduler(),
        "flow, Heun": FlowMatchHeunDiscreteScheduler(shift=2.0),
    }.items():
        path = folder / f"imported {name}"
        DDPMPipeline(unet, scheduler).save_pretrained(path)
        compare(f"imported, {name}", sampled(path, x_T, "--steps", 20), walk(unet, scheduler, x_T, 20))

    path = folder / "imported pickle"
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(path, safe_serialization=False)
    assert not list(path.glob("unet/*.safetensors"))
    compare("imported, pickled weights", sampled(path, x_T, "--steps", 5), walk(unet, DDIMScheduler(), x_T, 5))
    path = folder / "imported shards"
    unet.save_pretrained(path / "unet", max_shard_size="200KB")
    assert len(list(path.glob("unet/*.safetensors"))) > 1
    DDIMPipeline(unet, DDIMScheduler()).scheduler.save_pretrained(path / "scheduler")
    (path / "model_index.json").write_text(
        '{"_class_name": "DDIMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDIMScheduler"]}'
    )
    compare("imported, sharded weights", sampled(path, x_T, "--steps", 5), walk(unet, DDIMScheduler(), x_T, 5))


disable_progress_bar()
with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    exported_unets(folder)
    exported_consistency(folder)
    exported_transformer(folder)
    exported_latents(folder)
    imported(folder)
    imported_latents(folder)
print("all the same")
