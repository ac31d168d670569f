"""Makes the small files that other libraries write: npz, safetensors, parquet.

    pip install numpy pillow pyarrow safetensors torch
    python arrays.py
"""

import io
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from safetensors.torch import save_file

here = Path(__file__).parent

images = numpy.arange(3 * 2 * 4 * 3, dtype=numpy.uint8).reshape(3, 2, 4, 3)
labels = numpy.array([2, 5, 0])
numpy.savez(here / "stored.npz", images=images, labels=labels)
numpy.savez_compressed(here / "deflated.npz", x=images, y=labels.astype(numpy.uint8))
numpy.savez(here / "positional.npz", images, labels.astype(numpy.int32))
numpy.savez(here / "unlabelled.npz", images=images.transpose(0, 3, 1, 2).copy())

latents = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.5, -1.5, 0.0, 2.0]]).reshape(2, 1, 2, 2)
save_file({"latents": latents.half()}, here / "f16.safetensors")
save_file({"latents": latents.bfloat16()}, here / "bf16.safetensors")


def png(index):
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (50 * index, 10, 20)).save(file, "PNG")
    return file.getvalue()


# The layout of the Hugging Face library: a struct of bytes and path, and whole numbers.
table = pyarrow.table(
    {
        "image": [{"bytes": png(index), "path": f"{index}.png"} for index in range(5)],
        "label": [0, 2, 1, 2, 0],
    }
)
pyarrow.parquet.write_table(table, here / "images.parquet", row_group_size=2, compression="snappy")
