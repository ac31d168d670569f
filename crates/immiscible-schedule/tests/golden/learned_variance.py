"""Terms of the variational bound with a learned variance in float64, from the formulas of the papers.

    python learned_variance.py [FOLDER]

writes learned_variance.toml. Ho et al. 2020, arXiv 2006.11239, eq. 7 and 13; Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 4-7
and 15. Means are computed in full, with an x_t that cancels between them.
"""

import math
import pathlib
import sys

import numpy as np

T = 1000
TIMES = [0, 1, 500, 999]


def cdf(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    beta = np.linspace(1e-4, 0.02, T)
    alpha_bar = np.cumprod(1 - beta)
    before = np.append(1.0, alpha_bar[:-1])
    small = beta * (1 - before) / (1 - alpha_bar)

    rng = np.random.default_rng(0)
    x0 = np.round(rng.uniform(0, 255, (4, 6))) / 127.5 - 1
    x0[:, 0], x0[:, 1] = -1, 1
    noise = rng.normal(size=x0.shape)
    v = rng.uniform(-1.3, 1.3, x0.shape)
    estimate = x0 + rng.normal(size=x0.shape) * np.array([[0.004], [0.02], [0.3], [0.5]])

    log_variance, bits = np.zeros_like(x0), np.zeros_like(x0)
    for row, t in enumerate(TIMES):
        # The first step has no small variance; it takes that of the second.
        log_small = math.log(small[max(t, 1)])
        share = (v[row] + 1) / 2
        log_variance[row] = share * math.log(beta[t]) + (1 - share) * log_small
        x_t = math.sqrt(alpha_bar[t]) * x0[row] + math.sqrt(1 - alpha_bar[t]) * noise[row]
        mean_of = lambda x: (
            math.sqrt(before[t]) * beta[t] / (1 - alpha_bar[t]) * x
            + math.sqrt(1 - beta[t]) * (1 - before[t]) / (1 - alpha_bar[t]) * x_t
        )
        if t > 0:
            true, mean = mean_of(x0[row]), mean_of(estimate[row])
            variance = np.exp(log_variance[row])
            divergence = 0.5 * (
                log_variance[row] - log_small - 1 + (math.exp(log_small) + (true - mean) ** 2) / variance
            )
            bits[row] = divergence / math.log(2)
            continue
        for i, (x, mean) in enumerate(zip(x0[row], mean_of(estimate[row]))):
            std = math.exp(log_variance[row, i] / 2)
            upper = 1.0 if x > 0.999 else cdf((x + 1 / 255 - mean) / std)
            lower = 0.0 if x < -0.999 else cdf((x - 1 / 255 - mean) / std)
            bits[row, i] = -math.log2(max(upper - lower, 1e-12))

    text = "# Written by learned_variance.py.\n"
    text += f"timesteps = {TIMES}\n"
    for name, values in [("x0", x0), ("estimate", estimate), ("v", v), ("log_variance", log_variance), ("bits", bits)]:
        text += f"{name} = [{', '.join(repr(float(value)) for value in values.ravel())}]\n"
    (out / "learned_variance.toml").write_text(text)


main()
