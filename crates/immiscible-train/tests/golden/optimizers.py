"""Steps of PyTorch's RAdam and Muon, and of Lion as its paper has it, with given gradients.

Usage: python optimizers.py [FOLDER]    writes optimizers.json
Made with torch on the CPU, in double precision.
"""

import json
import sys
from pathlib import Path

import torch
from torch.optim import _muon

STEPS = 20


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, arXiv 2302.06675, algorithm 2."""

    def __init__(self, parameters, lr, betas, weight_decay):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].get("m", torch.zeros_like(p))
                c = beta1 * m + (1 - beta1) * p.grad
                p -= group["lr"] * (torch.sign(c) + group["weight_decay"] * p)
                self.state[p]["m"] = beta2 * m + (1 - beta2) * p.grad


class MuonWithAdamW:
    """The matrix by Muon, the vector by AdamW."""

    def __init__(self, parameters, lr, betas, eps, weight_decay, momentum):
        matrix, vector = parameters
        self.parts = (
            torch.optim.Muon(
                [matrix], lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW([vector], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay),
        )

    def step(self):
        for part in self.parts:
            part.step()


def orthogonal(gradient, coefficients, steps, eps):
    """The iteration of PyTorch's, which it does in bfloat16, in double precision."""
    a, b, c = coefficients
    wide = gradient if gradient.size(0) <= gradient.size(1) else gradient.T
    x = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x if gradient.size(0) <= gradient.size(1) else x.T
    short = published(gradient, coefficients, steps, eps).double()
    assert (x - short).abs().max() < 0.05, (x, short)
    return x


published = _muon._zeropower_via_newtonschulz
_muon._zeropower_via_newtonschulz = orthogonal

# PyTorch's decays of RAdam, and those of improved consistency training. With the last pair every step goes without the second
# moment.
CASES = (
    {"kind": "radam", "learning_rate": 0.05, "beta1": 0.9, "beta2": 0.999},
    {"kind": "radam", "learning_rate": 0.05, "beta1": 0.9, "beta2": 0.995},
    {"kind": "radam", "learning_rate": 0.02, "beta1": 0.5, "beta2": 0.6},
    {"kind": "lion", "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1},
    {"kind": "lion", "learning_rate": 0.02, "beta1": 0.5, "beta2": 0.75, "weight_decay": 0.0},
    {"kind": "muon", "learning_rate": 0.05, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.1, "momentum": 0.95},
    {"kind": "muon", "learning_rate": 0.02, "beta1": 0.5, "beta2": 0.75, "weight_decay": 0.0, "momentum": 0.5},
)


def optimizer(case, parameters):
    # As single precision has them.
    single = lambda key: torch.tensor(case[key]).double().item()
    lr, betas = case["learning_rate"], (single("beta1"), single("beta2"))
    if case["kind"] == "radam":
        return torch.optim.RAdam(parameters, lr=lr, betas=betas, eps=1e-8)
    decay = single("weight_decay")
    if case["kind"] == "lion":
        return Lion(parameters, lr, betas, decay)
    return MuonWithAdamW(parameters, lr, betas, 1e-8, decay, single("momentum"))


def main(folder):
    torch.manual_seed(0)
    # Values that single precision has, so that both sides start alike.
    drawn = lambda *shape: torch.randn(*shape).double()
    start = {"weight": drawn(3, 2), "bias": drawn(2)}
    # Of different sizes, as gradients are.
    gradients = [
        {"weight": drawn(3, 2) * 2.0 ** -(step % 4), "bias": drawn(2) * 0.125} for step in range(STEPS)
    ]
    cases = []
    for case in CASES:
        parameters = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
        of = optimizer(case, list(parameters.values()))
        after = []
        for gradient in gradients:
            for name, parameter in parameters.items():
                parameter.grad = gradient[name].clone()
            of.step()
            after.append([round(x, 9) for p in parameters.values() for x in p.detach().flatten().tolist()])
        cases.append({"optimizer": case, "parameters": after})
    flat = lambda tensors: {name: tensor.flatten().tolist() for name, tensor in tensors.items()}
    golden = {**flat(start), "gradients": [flat(gradient) for gradient in gradients], "cases": cases}
    text = json.dumps(golden, separators=(",", ":"))
    (folder / "optimizers.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
