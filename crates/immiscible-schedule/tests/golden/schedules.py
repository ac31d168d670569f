"""Tables of the noise schedules as the Python package diffusers (0.42.1) computes them.

    python schedules.py [FOLDER]

writes schedules.toml. Of each discrete schedule:

- alpha_bar: the package's table, which is in float32, whole and with 7 digits, for the usual betas. Its rounding is below 1e-6:
  at most 7.7e-7, for the cosine with zero terminal SNR.
- exact: the same computed by the package in float64, at every 50th timestep and the last. Relative to the value the rounding of float32
  is more, up to 4e-5 at the last timesteps of a schedule with zero terminal SNR, where a small value is a difference.

The package's `sigmoid` is another schedule, a sigmoid of betas. That of Jabri et al. 2023, arXiv 2212.11972, algorithm 1, which it
lacks, is computed here, in float64 alone.

Of flow: sigma of all training times. Of ve (EDM): those of training, from the largest one, and a sampling grid of 18 steps. Both in
float32, whose rounding is 1.5e-7 of a sigma. Grids of 50 steps on discrete schedules that are even in the 7th root of
sigma/alpha (Karras): in float64, since rounded alphas make float32 wrong by up to 1e-5 of a sigma.
"""

import contextlib
import pathlib
import sys
from unittest import mock

import numpy as np
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

KINDS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
ENDS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": (1e-4, 0.02)}


@contextlib.contextmanager
def float64():
    """Has the package compute what it computes in float32 in float64."""
    torch.set_default_dtype(torch.float64)
    with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(np, "float32", np.float64):
        yield
    torch.set_default_dtype(torch.float32)


def betas(name, timesteps=1000, beta_start=None, beta_end=None):
    """The package's settings for the betas of a schedule; those of other numbers of timesteps are scaled."""
    start, end = ENDS[name]
    scale = 1000 / timesteps
    return {
        "num_train_timesteps": timesteps,
        "beta_schedule": KINDS[name],
        "beta_start": (beta_start or start) * scale,
        "beta_end": (beta_end or end) * scale,
    }


def package(name, options, rescale):
    """alphas_cumprod as it is and in float64."""
    make = lambda: DDPMScheduler(**betas(name, **options), rescale_betas_zero_snr=rescale).alphas_cumprod
    single = make()
    with float64():
        double = make()
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    error = (single.double() - double).abs().max().item()
    assert error < 9e-7, (name, options, rescale, error)
    print(f"{name} {options} zero_terminal_snr={rescale}: float32 is off by {error:.1e}")
    return single.tolist(), double.tolist()


def sigmoid(timesteps=1000, start=-3.0, end=3.0, tau=1.0, rescale=False):
    rising = lambda x: 1.0 / (1.0 + np.exp(-x))
    u = np.arange(timesteps + 1) / timesteps
    levels = rising(end / tau) - rising((u * (end - start) + start) / tau)
    alpha_bar = np.cumprod(1.0 - np.minimum(1.0 - levels[1:] / levels[:-1], 0.999))
    if rescale:  # Lin et al. 2024, arXiv 2305.08891, algorithm 1
        root = np.sqrt(alpha_bar)
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return alpha_bar.tolist()


def line(key, values, digits):
    return f"{key} = [{', '.join(repr(float(f'{value:.{digits}g}')) for value in values)}]\n"


def config(name, options):
    words = [f'name = "{name}"'] + [f"{key} = {str(value).lower()}" for key, value in options.items()]
    return f"config = {{ {', '.join(words)} }}\n"


def discrete():
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
            if name == "sigmoid":
                single, double = None, sigmoid(**options, rescale=rescale)
            else:
                single, double = package(name, options, rescale)
            yield "\n[[discrete]]\n" + config(name, options | ({"zero_terminal_snr": True} if rescale else {}))
            yield line("exact", double[:-1:50] + double[-1:], 13)
            if single and not options:
                yield line("alpha_bar", single, 7)


def flow():
    for shift in (1.0, 3.0):
        sigma = FlowMatchEulerDiscreteScheduler(shift=shift).sigmas.flip(0).tolist()
        yield "\n[[flow]]\n" + config("flow", {"shift": shift}) + line("sigma", sigma, 7)


def ve():
    for options in ({}, {"sigma_min": 0.01, "sigma_max": 50.0, "rho": 3.0}):
        scheduler = EDMEulerScheduler(**options)
        if options:
            scheduler.set_timesteps(18)
        yield "\n[[ve]]\n" + config("ve", options) + line("sigma", scheduler.sigmas[:-1].tolist(), 7)


def karras():
    for name in KINDS:
        with float64():
            scheduler = EulerDiscreteScheduler(**betas(name), use_karras_sigmas=True)
            scheduler.set_timesteps(50)
        assert scheduler.sigmas.dtype == torch.float64
        yield "\n[[karras]]\n" + config(name, {}) + line("sigma", scheduler.sigmas[:-1].tolist(), 7)


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    text = "# Written by schedules.py.\n" + "".join(part for kind in (discrete, flow, ve, karras) for part in kind())
    (out / "schedules.toml").write_text(text)


main()
