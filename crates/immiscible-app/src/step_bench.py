"""A training step of PyTorch on a network of diffusers, for `immiscible bench-step --python`: prints one line of JSON.

Arguments: the network's config.json, "eager" or "compile", "f32" or "bf16", the images of a batch, the steps that count, the steps ahead of
them, the threads, and "cpu", "cuda" or "cuda:1".
"""

import json
import resource
import sys
import time

import diffusers
import torch

config, how, precision, batch, steps, warm, threads, device = sys.argv[1:]
batch, steps, warm = int(batch), int(steps), int(warm)
torch.set_num_threads(int(threads))
torch.manual_seed(0)
with open(config) as file:
    config = json.load(file)
network = getattr(diffusers, config["_class_name"]).from_config(config).to(device).train()
forward = torch.compile(network) if how == "compile" else network
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
shape = (batch, config["in_channels"], *[config["sample_size"]] * 2)
condition = {}
if config["_class_name"] == "DiTTransformer2DModel":
    # Without labels every image is of the class that stands for none.
    nothing = network.config.num_embeds_ada_norm
    condition["class_labels"] = torch.full((batch,), nothing, device=device)

images = torch.rand(shape, device=device) * 2 - 1
milliseconds, first = [], 0.0
for step in range(warm + steps):
    start = time.perf_counter()
    noise = torch.randn_like(images)
    times = torch.randint(0, 1000, (batch,), device=device)
    alpha = torch.rand((batch, 1, 1, 1), device=device)
    x_t = alpha.sqrt() * images + (1 - alpha).sqrt() * noise
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = forward(x_t, times, **condition).sample.float()
    loss = torch.nn.functional.mse_loss(output[:, : shape[1]], noise)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    # As in the other rows, a step ends when its loss is known.
    loss.item()
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
