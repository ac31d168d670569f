"""Makes resize.npy: what Pillow makes of one image with each filter that it shares with the data sets of image files.

    pip install numpy pillow
    python resize.py
"""

from pathlib import Path

import numpy
from PIL import Image

y, x, c = numpy.mgrid[0:31, 0:31, 0:3]
image = Image.fromarray((64 + (7 * x * x + 13 * y + 50 * c + 9 * (x * y % 17)) % 128).astype(numpy.uint8))
filters = [Image.BICUBIC, Image.BOX, Image.LANCZOS, Image.BILINEAR]
resized = [numpy.asarray(image.resize((side, side), filter)) for filter in filters for side in (11, 40)]
flat = numpy.concatenate([image.ravel() for image in resized])
numpy.save(Path(__file__).parent / "resize.npy", flat.astype(numpy.float16))
