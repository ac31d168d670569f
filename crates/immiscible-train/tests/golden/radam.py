"""Twenty steps of PyTorch's RAdam with given gradients.

Usage: python radam.py [FOLDER]    writes radam.json
Made with torch on the CPU, in double precision.
"""

import json
import sys
from pathlib import Path

import torch

STEPS = 20
# learning rate, β₁, β₂: PyTorch's decays, and those of improved consistency training. With the last pair every step goes
# without the second moment.
CASES = ((0.05, 0.9, 0.999), (0.05, 0.9, 0.995), (0.02, 0.5, 0.6))


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
    for learning_rate, beta1, beta2 in CASES:
        # The decays as single precision has them.
        betas = tuple(torch.tensor([beta1, beta2]).double().tolist())
        parameters = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
        optimizer = torch.optim.RAdam(parameters.values(), lr=learning_rate, betas=betas, eps=1e-8)
        after = []
        for gradient in gradients:
            for name, parameter in parameters.items():
                parameter.grad = gradient[name].clone()
            optimizer.step()
            after.append([round(x, 9) for p in parameters.values() for x in p.detach().flatten().tolist()])
        cases.append(
            {"learning_rate": learning_rate, "beta1": beta1, "beta2": beta2, "parameters": after}
        )
    flat = lambda tensors: {name: tensor.flatten().tolist() for name, tensor in tensors.items()}
    golden = {**flat(start), "gradients": [flat(gradient) for gradient in gradients], "cases": cases}
    text = json.dumps(golden, separators=(",", ":"))
    (folder / "radam.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
