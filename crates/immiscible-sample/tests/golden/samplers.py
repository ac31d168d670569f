"""Whole trajectories of diffusers' schedulers with a network in closed form.

Usage: python samplers.py [FOLDER]    writes samplers.json
Made with diffusers 0.42.1 and torch on the CPU.
"""

import json
import math
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.schedulers import (
    scheduling_consistency_models,
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_euler_ancestral_discrete,
)

SHAPE = (1, 1, 2, 2)
STEPS = (10, 20, 50)
# Consistency functions are sampled in few.
FEW_STEPS = (1, 2, 3, 10, 20)


def network(kind, x, t):
    """What the network outputs for x at the number t that it is given. The Rust test has the same formulas."""
    if kind == "consistency":
        return 0.8 * torch.sin(1.5 * x) + 0.3 * x - 0.1 * (t / 1000)
    if kind == "edm":
        return 0.8 * torch.sin(1.5 * x) + 0.3 * x - 0.1 * t
    u = t / 1000
    if kind == "flow":
        return 0.9 * x - 0.8 * torch.tanh(2 * x) * (1 - 0.7 * u) + 0.1 * u
    alpha2 = math.exp(-0.1 * u - 9.95 * u * u)
    alpha, sigma = math.sqrt(alpha2), math.sqrt(1.0001 - alpha2)
    x0 = 0.8 * torch.tanh(2 * alpha * x)
    if kind == "sample":
        return x0
    epsilon = sigma * x + 0.4 * alpha2 * torch.sin(3 * x)
    return epsilon if kind == "epsilon" else alpha * epsilon - sigma * x0


def variance(x, t):
    """The second half of channels of a network that predicts a variance."""
    return torch.sin(2 * x + t / 100)


# class, settings that are not defaults, arguments of step
V, S = {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COS = {"beta_schedule": "squaredcos_cap_v2"}
ZERO = {"rescale_betas_zero_snr": True}
TRAILING, LINSPACE = {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}
LEADING = {"timestep_spacing": "leading"}
KARRAS, EXPONENTIAL = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 3.0}
SDE = {"algorithm_type": "sde-dpmsolver++"}

CASES = [
    ("DDPMScheduler", {}, {}),
    ("DDPMScheduler", {**TRAILING, "variance_type": "fixed_large"}, {}),
    ("DDPMScheduler", {**V, **LINSPACE, "variance_type": "fixed_small_log"}, {}),
    ("DDPMScheduler", {"variance_type": "learned_range", "clip_sample": False}, {}),
    ("DDPMScheduler", {**TRAILING, "variance_type": "learned_range"}, {}),
    ("DDPMScheduler", {"variance_type": "learned", "clip_sample_range": 2.0}, {}),
    ("DDPMScheduler", {**S, **COS, **THRESHOLD}, {}),
    ("DDPMScheduler", {**V, **ZERO, **TRAILING}, {}),
    ("DDIMScheduler", {}, {}),
    ("DDIMScheduler", {"clip_sample": False}, {"eta": 0.5}),
    ("DDIMScheduler", {**TRAILING}, {"eta": 1.0}),
    ("DDIMScheduler", {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}, {}),
    ("DDIMScheduler", {**V, **LINSPACE, **THRESHOLD}, {}),
    ("DDIMScheduler", {**V, **ZERO, **TRAILING}, {}),
    ("DDIMScheduler", {**S, **COS}, {}),
    ("PNDMScheduler", {"skip_prk_steps": True}, {}),
    ("PNDMScheduler", {}, {}),
    ("PNDMScheduler", {**SD, "skip_prk_steps": True, "steps_offset": 1}, {}),
    ("PNDMScheduler", {**TRAILING, "set_alpha_to_one": True}, {}),
    ("EulerDiscreteScheduler", {}, {}),
    ("EulerDiscreteScheduler", {**SD, **LEADING, "steps_offset": 1}, {}),
    ("EulerDiscreteScheduler", {**SD, **KARRAS}, {}),
    ("EulerDiscreteScheduler", {**KARRAS, "sigma_min": 0.02, "sigma_max": 50.0}, {}),
    ("EulerDiscreteScheduler", {**V, **EXPONENTIAL, **SIGMA_MIN}, {}),
    ("EulerDiscreteScheduler", {**V, **ZERO, **TRAILING}, {}),
    ("EulerDiscreteScheduler", {**S, **COS, **KARRAS, "sigma_max": 80.0}, {}),
    ("EulerAncestralDiscreteScheduler", {}, {}),
    ("EulerAncestralDiscreteScheduler", {**SD, **LEADING, "steps_offset": 1}, {}),
    ("EulerAncestralDiscreteScheduler", {**V, **TRAILING}, {}),
    ("HeunDiscreteScheduler", {}, {}),
    ("HeunDiscreteScheduler", {**SD, **KARRAS, "clip_sample": True}, {}),
    ("HeunDiscreteScheduler", {**V, **EXPONENTIAL}, {}),
    ("HeunDiscreteScheduler", {**S, **TRAILING}, {}),
    ("DPMSolverMultistepScheduler", {}, {}),
    ("DPMSolverMultistepScheduler", {"solver_order": 1, **TRAILING}, {}),
    ("DPMSolverMultistepScheduler", {**SD, **KARRAS}, {}),
    ("DPMSolverMultistepScheduler", {**SD, **KARRAS, **SIGMA_MIN}, {}),
    ("DPMSolverMultistepScheduler", {**V, **EXPONENTIAL, "lower_order_final": False}, {}),
    ("DPMSolverMultistepScheduler", {**LEADING, **SIGMA_MIN, "steps_offset": 1, "euler_at_final": True}, {}),
    ("DPMSolverMultistepScheduler", {**S, **COS, **THRESHOLD}, {}),
    ("DPMSolverMultistepScheduler", {**SDE}, {}),
    ("DPMSolverMultistepScheduler", {**SDE, **SD, **KARRAS}, {}),
    ("DPMSolverMultistepScheduler", {**SDE, **V, **TRAILING, "solver_order": 1}, {}),
    ("DPMSolverMultistepScheduler", {**SDE, **TRAILING, **SIGMA_MIN}, {}),
    ("UniPCMultistepScheduler", {}, {}),
    ("UniPCMultistepScheduler", {**SIGMA_MIN, "solver_order": 3, "solver_type": "bh1"}, {}),
    ("UniPCMultistepScheduler", {**SD, **KARRAS, "solver_order": 3}, {}),
    ("UniPCMultistepScheduler", {**V, **TRAILING, **SIGMA_MIN, "lower_order_final": False}, {}),
    ("UniPCMultistepScheduler", {**S, **EXPONENTIAL, "solver_order": 1}, {}),
    ("UniPCMultistepScheduler", {**LEADING, **THRESHOLD, "steps_offset": 1}, {}),
    ("EDMEulerScheduler", {}, {}),
    ("EDMEulerScheduler", {"sigma_schedule": "exponential", "sigma_min": 0.01, "sigma_max": 40.0, "sigma_data": 1.0}, {}),
    ("EDMEulerScheduler", {"rho": 5.0, **SIGMA_MIN}, {}),
    ("CMStochasticIterativeScheduler", {}, {}),
    ("CMStochasticIterativeScheduler", {"num_train_timesteps": 151, "clip_denoised": False}, {}),
    ("CMStochasticIterativeScheduler", {"sigma_min": 0.01, "sigma_max": 40.0, "sigma_data": 1.0, "rho": 5.0}, {}),
    ("FlowMatchEulerDiscreteScheduler", {}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {}),
    ("FlowMatchEulerDiscreteScheduler", {**KARRAS}, {}),
    ("FlowMatchEulerDiscreteScheduler", {**EXPONENTIAL, "shift": 2.0}, {}),
    ("FlowMatchHeunDiscreteScheduler", {}, {}),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, {}),
]

generator = torch.Generator().manual_seed(0)
START = torch.randn(SHAPE, generator=generator)
NOISE = torch.randn((max(STEPS), *SHAPE), generator=generator)
step_number = 0


def recorded_noise(shape, **_):
    assert tuple(shape) == SHAPE
    return NOISE[step_number]


for module in (
    scheduling_consistency_models,
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_euler_ancestral_discrete,
):
    module.randn_tensor = recorded_noise


def kind_of(name, scheduler):
    if name.startswith("CM"):
        return "consistency"
    if name.startswith("EDM"):
        return "edm"
    return "flow" if name.startswith("Flow") else scheduler.config.prediction_type


def betas(config):
    """The package's betas in double precision."""
    total = config.num_train_timesteps
    if config.beta_schedule == "squaredcos_cap_v2":
        bar = [math.cos((i / total + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(total + 1)]
        return torch.tensor([min(1 - bar[i + 1] / bar[i], 0.999) for i in range(total)], dtype=torch.float64)
    power = 2 if config.beta_schedule == "scaled_linear" else 1
    ends = config.beta_start ** (1 / power), config.beta_end ** (1 / power)
    return torch.linspace(*ends, total, dtype=torch.float64) ** power


def made(name, settings):
    """The scheduler, with its table of alphas in double precision: in single precision, which the package has it in, the first
    sigmas are wrong in the fourth digit and those of the cosine schedule's end in the fifth, so that trajectories would differ
    by up to 1e-4."""
    scheduler = getattr(diffusers, name)(**settings)
    if hasattr(scheduler, "alphas_cumprod") and not settings.get("rescale_betas_zero_snr"):
        exact = torch.cumprod(1 - betas(scheduler.config), 0)
        assert torch.allclose(exact, scheduler.alphas_cumprod.double(), rtol=1e-4)
        scheduler.alphas_cumprod = exact
        if hasattr(scheduler, "final_alpha_cumprod") and not scheduler.config.set_alpha_to_one:
            scheduler.final_alpha_cumprod = exact[0]
    return scheduler


def trajectory(name, settings, arguments, steps):
    """x after each step, as alpha x0 + sigma eps."""
    global step_number
    scheduler = made(name, settings)
    scheduler.set_timesteps(steps)
    kind = kind_of(name, scheduler)
    scaled = name.startswith("Euler") or name.startswith("Heun")
    learned = settings.get("variance_type", "").startswith("learned")
    x = START * getattr(scheduler, "init_noise_sigma", 1.0)
    path = []
    step_number = 0
    timesteps = scheduler.timesteps
    for i, t in enumerate(timesteps):
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = network(kind, given, float(t))
        if learned:
            spread = variance(given, float(t))
            output = torch.cat([output, 0.02 * spread**2 if settings["variance_type"] == "learned" else spread], 1)
        x = scheduler.step(output, t, x, **arguments).prev_sample
        # A step of a method with several evaluations is done when the next one starts at a new place.
        if name.endswith("HeunDiscreteScheduler") or name == "HeunDiscreteScheduler":
            done = scheduler.state_in_first_order or i + 1 == len(timesteps)
        elif name == "PNDMScheduler":
            prk = len(scheduler.prk_timesteps)
            done = (i + 1) % 4 == 0 if i < prk else prk > 0 or i != 0
        else:
            done = True
        if not done:
            continue
        level = 1.0
        if scaled and step_number + 1 < steps:
            level = 1 / math.sqrt(float(scheduler.sigmas[scheduler.step_index]) ** 2 + 1)
        path.append((x * level).flatten().tolist())
        step_number += 1
    assert len(path) == steps, (name, len(path), steps)
    assert all(math.isfinite(value) for row in path for value in row), (name, settings)
    return path


def steps_of(name):
    return FEW_STEPS if name.startswith("CM") else STEPS


def rounded(values):
    return [float(f"{value:.7g}") for value in values]


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    cases = []
    for name, settings, arguments in CASES:
        config = dict(getattr(diffusers, name)(**settings).config)
        config = {"_class_name": name} | {key: value for key, value in config.items() if key in settings}
        runs = {str(steps): [rounded(row) for row in trajectory(name, settings, arguments, steps)] for steps in steps_of(name)}
        cases.append({"config": config, "arguments": arguments, "runs": runs})
    golden = {
        "start": rounded(START.flatten().tolist()),
        "noise": [rounded(noise.flatten().tolist()) for noise in NOISE],
        "cases": cases,
    }
    (folder / "samplers.json").write_text(json.dumps(golden, separators=(",", ":")).replace('{"config"', '\n{"config"') + "\n")


if __name__ == "__main__":
    main()
