"""Which noise should each image of a diffusion batch take? And which column each row of a cost matrix?

Exact answers, fast. NumPy arrays and PyTorch tensors come in, without a copy where they are contiguous float32; NumPy
index arrays go out. The global interpreter lock is free while a problem is solved, so another thread can train: do not
write to an array that is being solved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from . import _immiscible

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["COSTS", "METHODS", "assign", "assign_many", "linear_sum_assignment"]

METHODS: tuple[str, ...] = tuple(_immiscible.METHODS)
"""The names that ``method`` takes."""

COSTS: tuple[str, ...] = tuple(_immiscible.COSTS)
"""The names that ``cost`` takes."""


def assign(
    images: ArrayLike,
    noise: ArrayLike,
    *,
    method: str = "exact",
    cost: str = "dot",
    labels: Optional[ArrayLike] = None,
    k: Optional[int] = None,
    precision: str = "float32",
) -> NDArray[np.int64]:
    """The noise that each image takes: train image ``i`` with ``noise[index[i]]``.

    Arrays of any rank from 2 are taken as one vector a row. NumPy arrays, PyTorch tensors and whatever else NumPy can
    read are welcome; what is not contiguous float32 in host memory is copied into it.

    Parameters
    ----------
    images
        ``[B, ...]``, the images (or latents) of a batch, as the network sees them.
    noise
        ``[M, ...]`` with ``M >= B``: a set of noises for the images to share, each taken at most once. For ``"knn"``,
        ``k`` noises for each image: ``[B, k, ...]``; or ``[B * k, ...]``, where those of image ``i`` are the rows from
        ``i * k`` on, and ``k`` is given.
    method
        One of ``METHODS``. ``"exact"`` finds the optimum.
    cost
        What is minimised over all images together, one of ``COSTS``. ``"dot"`` is the negative inner product; it has the
        same optimum as the squared L2 distance if ``M == B``. The paper minimises ``"l2"``, which hardly differs.
    labels
        ``[B]``, the class of each image: images then take noises of their own class only, where noise ``j`` has the
        class of image ``j % B``, and ``M`` is a multiple of ``B``. Conditional models need this, or the noise tells the
        label.
    k
        Noises for each image, where the shape of ``noise`` does not say it.
    precision
        ``"int8"`` rounds both inputs to 8 bits, for the cost only: faster, and almost as good.

    Returns
    -------
    int64 array ``[B]``, a row of ``noise`` for each image. If ``noise`` is ``[B, k, ...]``, which of its own ``k`` noises
    each image takes: ``noise[numpy.arange(B), index]``.

    Raises
    ------
    ValueError
        One line with the reason: shapes that do not fit each other, a value that is NaN or infinite, a name that is not
        known.
    """
    return assign_many(
        [images], [noise], method=method, cost=cost, labels=[labels], k=k, precision=precision
    )[0]


def assign_many(
    images: Iterable[ArrayLike],
    noise: Iterable[ArrayLike],
    *,
    method: str = "exact",
    cost: str = "dot",
    labels: Optional[Iterable[Optional[ArrayLike]]] = None,
    k: Optional[int] = None,
    precision: str = "float32",
) -> list[NDArray[np.int64]]:
    """``assign`` for several batches at a time, on all processor cores.

    Parameters
    ----------
    images, noise, labels
        A batch each, of equal or different sizes: a list of arrays, or one array ``[G, B, ...]``.
    method, cost, k, precision
        As in ``assign``, the same for all batches.

    Returns
    -------
    A list of int64 arrays, one a batch; ``numpy.stack`` makes one array of them if their lengths are equal.

    Raises
    ------
    ValueError
        As ``assign``; with several batches the message says which one.
    """
    images, noise = list(images), list(noise)
    labels = [None] * len(images) if labels is None else list(labels)
    if not len(images) == len(noise) == len(labels):
        raise ValueError(
            f"{len(images)} batches of images, {len(noise)} of noise and {len(labels)} of labels: one each is needed"
        )
    batches = [_problem(*batch, method, k) for batch in zip(images, noise, labels)]
    found = _immiscible.assign([problem for problem, _ in batches], method, cost, precision)
    return [first + index for (_, first), index in zip(batches, found)]


def linear_sum_assignment(
    cost: ArrayLike, maximize: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The exact solution of the linear sum assignment problem, as ``scipy.optimize.linear_sum_assignment`` gives it.

    Parameters
    ----------
    cost
        ``[n, m]``, of any real data type. float32 is taken as it is, float16 as float32, all else as float64.
        Every entry must be finite: unlike SciPy's, this solver takes no ``inf`` for a forbidden pair.
    maximize
        Find the largest sum and not the smallest.

    Returns
    -------
    ``row_ind, col_ind``: int64 arrays of length ``min(n, m)``, with the rows in order. ``cost[row_ind, col_ind].sum()`` is
    the optimum, as far as double precision can tell next to the largest entry. Where several solutions have that sum,
    it need not be SciPy's.

    Raises
    ------
    ValueError
        If ``cost`` is not a matrix, or has an entry that is no finite number.
    """
    matrix = _numbers("cost", cost)
    if matrix.ndim != 2:
        raise ValueError(f"cost has the shape {matrix.shape}, but a matrix (n, m) is needed")
    single = matrix.dtype.kind == "f" and matrix.dtype.itemsize <= 4
    matrix = _contiguous(matrix, np.float32 if single else np.float64)
    return _immiscible.linear_sum_assignment(-matrix if maximize else matrix)


def _problem(
    images: Any, noise: Any, labels: Any, method: str, k: Optional[int]
) -> tuple[tuple[Any, Any, Any], Any]:
    """One batch as the native module takes it, and what its index counts from."""
    images, noise = _numbers("images", images), _numbers("noise", noise)
    if images.ndim < 2:
        raise ValueError(f"images has the shape {images.shape}, but (B, ...) is needed: one image a row")
    batch, *image = images.shape
    own = noise.ndim == images.ndim + 1
    rows: tuple[int, ...]
    if own:
        rows = (batch, noise.shape[1] if k is None else k)
    elif k is not None:
        rows = (batch * k,)
    elif method == "knn":
        raise ValueError(
            f'noise has the shape {noise.shape}: "knn" needs k noises for each image, as (B, k, ...), or as '
            "(B * k, ...) and the argument k"
        )
    else:
        rows = noise.shape[:1] or (batch,)
    if noise.shape != (*rows, *image):
        raise ValueError(
            f"noise has the shape {noise.shape}, but {(*rows, *image)} is needed with images of {images.shape}"
        )

    first: Any = 0
    if k is not None and not own:
        rows, first = (batch, k), k * np.arange(batch)
    size = math.prod(image)
    images = _contiguous(images, np.float32).reshape(batch, size)
    noise = _contiguous(noise, np.float32).reshape(*rows, size)
    return (images, noise, _groups(labels, batch)), first


def _groups(labels: Any, batch: int) -> Any:
    """The labels as small numbers."""
    if labels is None:
        return None
    labels = _array(labels)
    if labels.shape != (batch,):
        raise ValueError(f"labels has the shape {labels.shape}, but {(batch,)} is needed: one label an image")
    return np.unique(labels, return_inverse=True)[1].astype(np.uint32)


def _numbers(name: str, values: Any) -> Any:
    array = _array(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has the data type {array.dtype}: real numbers are needed")
    return array


def _array(values: Any) -> Any:
    """The values as a NumPy array; of a PyTorch tensor also with a gradient, on a device or in bfloat16."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    return np.asarray(values)


def _contiguous(array: Any, dtype: Any) -> Any:
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])
