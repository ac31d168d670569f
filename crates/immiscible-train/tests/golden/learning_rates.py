"""Learning rates of diffusers and PyTorch at every step of short runs.

Usage: python learning_rates.py [FOLDER]    writes learning_rates.json
Made with diffusers and torch on the CPU. The package's warm-up begins with a step of rate 0, so that its steps of the warm-up
are one behind.
"""

import json
import math
import sys
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler

RATE = 2e-3
STEPS = 24


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)


def walk(of, scheduler, steps):
    rates = []
    for _ in range(steps):
        rates.append(of.param_groups[0]["lr"])
        of.step()
        scheduler.step()
    return rates


def diffusers_rates(name, warmup, total):
    of = optimizer()
    known = "constant_with_warmup" if name == "constant" else name
    rates = walk(of, get_scheduler(known, of, num_warmup_steps=warmup, num_training_steps=total), STEPS + 1)
    return rates[1 : warmup + 1] + rates[warmup:STEPS]


def torch_rates(name, total, share):
    of = optimizer()
    scheduler = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(of, total, eta_min=share * RATE),
        "linear": lambda: torch.optim.lr_scheduler.LinearLR(of, 1.0, share, total),
    }[name]()
    return walk(of, scheduler, total + 1)


def case(rates, **options):
    return {"optimizer": {"learning_rate": RATE, **options}, "rates": rates}


def main(folder):
    cases = []
    for name in ("constant", "cosine", "linear"):
        for warmup in (0, 5):
            steps = {} if name == "constant" else {"schedule_steps": STEPS}
            rates = diffusers_rates(name, warmup, STEPS)
            cases.append(case(rates, schedule=name, warmup_steps=warmup, **steps))
    for name in ("cosine", "linear"):
        rates = torch_rates(name, STEPS, 0.1)
        cases.append(case(rates, schedule=name, schedule_steps=STEPS, final_share=0.1))
    # Karras et al. 2024, equation 67: α_ref / sqrt(max(t/t_ref, 1)).
    rates = [RATE / math.sqrt(max(step / 7, 1)) for step in range(STEPS)]
    cases.append(case(rates, schedule="inverse_sqrt", decay_start=7))
    (folder / "learning_rates.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
