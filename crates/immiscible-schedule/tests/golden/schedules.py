"""Tables of the noise schedules in float64, from the formulas of their papers.

    python schedules.py [FOLDER]

writes schedules.toml: alpha_bar at the timesteps 0, 10, 20, ... and the last, or the noise levels sigma of continuous schedules.
Every whole table is first compared with the one of the Python package diffusers (0.42.1), which is computed in float32, where it
has that schedule.
"""

import pathlib
import sys

import numpy as np
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler


def from_betas(betas):
    return np.cumprod(1.0 - betas)


def linear(timesteps=1000, beta_start=1e-4, beta_end=0.02):
    return from_betas(np.linspace(beta_start, beta_end, timesteps) * 1000 / timesteps)


def scaled_linear(timesteps=1000, beta_start=0.00085, beta_end=0.012):
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, timesteps) ** 2 * 1000 / timesteps)


def capped(alpha_bar, timesteps):
    u = np.arange(timesteps + 1) / timesteps
    levels = alpha_bar(u)
    return from_betas(np.minimum(1.0 - levels[1:] / levels[:-1], 0.999))


def cosine(timesteps=1000):
    return capped(lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2, timesteps)


def sigmoid(timesteps=1000, start=-3.0, end=3.0, tau=1.0):
    rising = lambda x: 1.0 / (1.0 + np.exp(-x))
    first, last = rising(start / tau), rising(end / tau)
    return capped(lambda u: (last - rising((u * (end - start) + start) / tau)) / (last - first), timesteps)


def zero_terminal_snr(alpha_bar):
    root = np.sqrt(alpha_bar)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def package(name, timesteps=1000, beta_start=None, beta_end=None, zero_terminal_snr=False):
    """alphas_cumprod of diffusers, or None where it has no such schedule."""
    kinds = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    if name not in kinds:
        return None
    start, end = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": (1e-4, 0.02)}[name]
    return DDIMScheduler(
        num_train_timesteps=timesteps,
        beta_schedule=kinds[name],
        beta_start=(beta_start or start) * 1000 / timesteps,
        beta_end=(beta_end or end) * 1000 / timesteps,
        rescale_betas_zero_snr=zero_terminal_snr,
    ).alphas_cumprod.double().numpy()


def line(key, values):
    return f"{key} = [{', '.join(repr(float(value)) for value in values)}]\n"


def config(name, options):
    words = [f'name = "{name}"'] + [f"{key} = {str(value).lower()}" for key, value in options.items()]
    return f"config = {{ {', '.join(words)} }}\n"


def main():
    torch.set_grad_enabled(False)
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    text = "# Written by schedules.py.\n"
    discrete = {"cosine": cosine, "linear": linear, "scaled_linear": scaled_linear, "sigmoid": sigmoid}
    for name, options in [
        ("cosine", {}),
        ("cosine", {"timesteps": 100}),
        ("linear", {}),
        ("linear", {"timesteps": 100}),
        ("linear", {"beta_start": 0.0015, "beta_end": 0.0195}),
        ("scaled_linear", {}),
        ("scaled_linear", {"beta_start": 0.0015, "beta_end": 0.0205}),
        ("sigmoid", {}),
        ("sigmoid", {"start": 0.0, "end": 3.0, "tau": 0.7}),
        ("sigmoid", {"timesteps": 250, "tau": 1.5}),
    ]:
        for rescale in (False, True):
            if rescale and "timesteps" in options:
                continue
            alpha_bar = discrete[name](**options)
            if rescale:
                alpha_bar = zero_terminal_snr(alpha_bar)
            reference = package(name, **{k: v for k, v in options.items() if k not in ("start", "end", "tau")},
                                zero_terminal_snr=rescale)
            if reference is not None:
                error = np.abs(alpha_bar - reference).max()
                assert error < 2e-6, (name, options, rescale, error)
                print(f"{name} {options} zero_terminal_snr={rescale}: {error:.1e} from diffusers")
            told = options | ({"zero_terminal_snr": True} if rescale else {})
            kept = np.append(alpha_bar[:-1:10], alpha_bar[-1])
            text += "\n[[discrete]]\n" + config(name, told) + line("alpha_bar", kept)

    # sigma of the training times i/T, i = 10, 20, ... 1000.
    for shift in (1.0, 3.0):
        t = np.arange(1, 1001) / 1000
        sigma = shift * t / (1 + (shift - 1) * t)
        reference = FlowMatchEulerDiscreteScheduler(shift=shift).sigmas.double().numpy()[::-1]
        error = np.abs(sigma - reference).max()
        assert error < 1e-6, (shift, error)
        print(f"flow shift={shift}: {error:.1e} from diffusers")
        text += "\n[[flow]]\n" + config("flow", {"shift": shift}) + line("sigma", sigma[9::10])

    # sigma of a sampling grid of 18 steps.
    for options in ({}, {"sigma_min": 0.01, "sigma_max": 50.0, "rho": 3.0}):
        low, high, rho = (options.get(key, default) for key, default in
                          (("sigma_min", 0.002), ("sigma_max", 80.0), ("rho", 7.0)))
        ramp = np.arange(18) / 17
        sigma = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        scheduler = EDMEulerScheduler(sigma_min=low, sigma_max=high, rho=rho)
        scheduler.set_timesteps(18)
        error = np.abs(sigma / scheduler.sigmas.double().numpy()[:18] - 1).max()
        assert error < 1e-5, (options, error)
        print(f"ve {options}: relative {error:.1e} from diffusers")
        text += "\n[[grid]]\n" + config("ve", options) + line("sigma", sigma)
    (out / "schedules.toml").write_text(text)


main()
