"""Writes the .npy files beside it. Run with NumPy 2: python npy.py"""

import pathlib

import numpy as np

here = pathlib.Path(__file__).parent


def save(name, array):
    np.save(here / f"{name}.npy", array)


# k / 4 - 2 at position k in C order: exact in float16.
reals = np.arange(12) / 4 - 2
for size in (2, 4, 8):
    for order, mark in (("<", "little"), (">", "big")):
        block = reals.astype(f"{order}f{size}").reshape(3, 2, 2)
        save(f"f{size}-{mark}-c", block)
        save(f"f{size}-{mark}-fortran", np.asfortranarray(block))
save("vector", reals.astype("<f4"))
save("scalar", np.float32(1.5))
save("no-rows", np.zeros((0, 3), "<f4"))
save("special", np.array([[1.0, np.nan], [-np.inf, -0.0]], "<f8"))
save("beyond-f32", np.asfortranarray([[1.0, 2.0, 3.0], [4.0, 5.0, -1e300]]))

for kind in ("i1", "u1", "<i2", ">i2", "<u2", "<i4", ">u4", "<i8", ">i8", "<u8"):
    mark = {"<": "-little", ">": "-big"}.get(kind[0], "")
    save(f"labels-{kind[-2:]}{mark}", np.array([0, 1, 2, 100], kind))
save("labels-negative", np.array([3, -1], "<i8"))
save("labels-large", np.array([3, 2**32], "<u8"))
save("labels-matrix", np.zeros((2, 2), "<i8"))

save("complex", np.zeros((2, 2), "<c8"))
save("bool", np.zeros((2, 2), bool))
save("record", np.zeros((2, 2), [("a", "<f4"), ("b", "<i8", (2,))]))
for version in ((2, 0), (3, 0)):
    with open(here / f"version-{version[0]}.npy", "wb") as file:
        np.lib.format.write_array(file, reals.astype("<f4").reshape(3, 4), version=version)
