"""A training step of PyTorch on a network of diffusers, for `immiscible bench-step --python`: prints one line of JSON.

Arguments: the network's config.json, "eager" or "compile", "f32" or "bf16", the images of a batch, those whose gradient is computed at
once, the steps that count, the steps ahead of them, the threads, and "cpu", "cuda" or "cuda:1".
"""

import json
import resource
import sys
import time

import diffusers
import torch

config, how, precision, batch, at_once, steps, warm, threads, device = sys.argv[1:]
batch, at_once, steps, warm = int(batch), int(at_once), int(steps), int(warm)
torch.set_num_threads(int(threads))
torch.manual_seed(0)
with open(config) as file:
    config = json.load(file)
network = getattr(diffusers, config["_class_name"]).from_config(config).to(device).train()
forward = torch.compile(network) if how == "compile" else network
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
shape = (batch, config["in_channels"], *[config["sample_size"]] * 2)


def condition(images):
    if config["_class_name"] != "DiTTransformer2DModel":
        return {}
    # Without labels every image is of the class that stands for none.
    nothing = network.config.num_embeds_ada_norm
    return {"class_labels": torch.full((images,), nothing, device=device)}


images = torch.rand(shape, device=device) * 2 - 1
milliseconds, first = [], 0.0
for step in range(warm + steps):
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for x0 in images.split(at_once):
        noise = torch.randn_like(x0)
        times = torch.randint(0, 1000, (len(x0),), device=device)
        alpha = torch.rand((len(x0), 1, 1, 1), device=device)
        x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = forward(x_t, times, **condition(len(x0))).sample.float()
        loss = torch.nn.functional.mse_loss(output[:, : shape[1]], noise) * (len(x0) / batch)
        loss.backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    # As in the other rows, a step ends with its new weights, behind which the loss is read.
    total.item()
    seconds = time.perf_counter() - start
    if step == 0:
        first = seconds
    if step >= warm:
        milliseconds.append(1e3 * seconds)

milliseconds.sort()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
if device.startswith("cuda"):
    peak = torch.cuda.max_memory_reserved(device)
print(
    json.dumps(
        {
            "version": torch.__version__,
            "first_seconds": first,
            "step_ms": milliseconds[len(milliseconds) // 2],
            "memory_bytes": peak,
        }
    )
)
