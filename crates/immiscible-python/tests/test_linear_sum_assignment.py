"""linear_sum_assignment against SciPy's, on random matrices of every kind."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment as scipy_assignment

from immiscible import linear_sum_assignment

KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.random(shape),
    "ties": lambda rng, shape: rng.integers(0, 4, shape).astype(float),
    "two levels": lambda rng, shape: rng.integers(0, 2, shape).astype(float),
    "constant": lambda rng, shape: np.full(shape, rng.normal()),
    "zero": lambda rng, shape: np.zeros(shape),
    "tiny": lambda rng, shape: rng.normal(size=shape) * 1e-30,
    "negative": lambda rng, shape: -rng.random(shape) * 100,
    "far from zero": lambda rng, shape: rng.random(shape) + 1e4,
    "huge range": lambda rng, shape: 10 ** rng.uniform(-3, 12, shape),
    "one huge row": lambda rng, shape: rng.normal(size=shape) * np.where(np.arange(shape[0]) == 0, 1e4, 1)[:, None],
    "one huge column": lambda rng, shape: rng.normal(size=shape) * np.where(np.arange(shape[1]) == 0, 1e4, 1),
    "half zero": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.5),
    "equal rows": lambda rng, shape: rng.normal(size=(4, shape[1]))[np.arange(shape[0]) % 4],
    "equal columns": lambda rng, shape: rng.normal(size=(shape[0], 4))[:, np.arange(shape[1]) % 4],
    "rank one": lambda rng, shape: np.outer(np.arange(shape[0]), np.arange(shape[1])).astype(float),
    "points on a line": lambda rng, shape: np.abs(rng.random(shape[0])[:, None] - rng.random(shape[1])),
    "inner products": lambda rng, shape: -rng.normal(size=(shape[0], 8)) @ rng.normal(size=(shape[1], 8)).T,
}

SHAPES = {
    "square": lambda rng, size: (size, size),
    "wide": lambda rng, size: (size, size + int(rng.integers(1, 2 + size))),
    "tall": lambda rng, size: (size + int(rng.integers(1, 2 + size)), size),
}


def sizes(rng):
    """Many small ones, where mistakes at the edges show, and a few up to 200."""
    return [*range(9), *rng.integers(9, 40, 24), *rng.integers(40, 101, 6), int(rng.integers(101, 201))]


def check(cost, maximize=False, unit=1.0):
    """The form of the answer; and its total, which is SciPy's on the same matrix in double precision and this unit."""
    before = cost.copy()
    rows, columns = linear_sum_assignment(cost, maximize=maximize)
    assert np.array_equal(cost, before)
    assert rows.dtype == columns.dtype == np.int64
    assert rows.shape == columns.shape == (min(cost.shape),)
    assert np.all(np.diff(rows) > 0) and len(set(columns)) == len(columns)
    exact = cost.astype(np.float64) / unit
    optimum = exact[scipy_assignment(exact, maximize=maximize)]
    # Of the entries, because their sum may cancel to nothing; and what double precision makes of the largest.
    tolerance = 1e-9 * np.abs(optimum).sum() + np.finfo(np.float64).eps * np.abs(exact).max(initial=0)
    assert abs(exact[rows, columns].sum() - optimum.sum()) <= tolerance


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_total_is_scipys(kind, shape):
    rng = np.random.default_rng([list(KINDS).index(kind), list(SHAPES).index(shape)])
    for n, size in enumerate(sizes(rng)):
        cost = KINDS[kind](rng, SHAPES[shape](rng, int(size)))
        check(cost, maximize=n % 3 == 2)
        check(cost.astype(np.float32), maximize=n % 3 == 1)


def test_nothing_overflows():
    """Up to the largest numbers there are, with which SciPy needs another unit."""
    rng = np.random.default_rng(0)
    for size in range(1, 40):
        for shape in [(size, size), (size, size + 3), (size + 3, size)]:
            check(rng.normal(size=shape) * 1e300)
            check(rng.uniform(-1.7, 1.7, shape) * 1e308, unit=1e300)
            check((rng.uniform(-3.4, 3.4, shape) * 1e38).astype(np.float32))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.uint32, np.int64, np.float16, ">f4", ">f8"])
def test_every_real_data_type(dtype):
    rng = np.random.default_rng(1)
    for shape in [(7, 7), (5, 9), (9, 5)]:
        for maximize in [False, True]:
            check(rng.integers(0, 100, shape).astype(dtype), maximize)


def test_integers_are_solved_in_double_precision():
    cost = np.array([[1, 0], [0, 0]]) + 10**9
    assert np.array_equal(linear_sum_assignment(cost)[1], [1, 0])


def test_the_memory_layout_does_not_matter():
    rng = np.random.default_rng(2)
    cost = rng.normal(size=(40, 60)).astype(np.float32)
    expected = linear_sum_assignment(cost)[1]
    padded = np.zeros((80, 180), dtype=np.float32)
    padded[::2, ::3] = cost
    unaligned = np.zeros(cost.nbytes + 1, dtype=np.uint8)[1:].view(np.float32).reshape(cost.shape)
    unaligned[:] = cost
    read_only = cost.copy()
    read_only.flags.writeable = False
    reversed_twice = cost[::-1, ::-1].copy()[::-1, ::-1]
    for same in [np.asfortranarray(cost), padded[::2, ::3], unaligned, read_only, reversed_twice, cost.tolist()]:
        assert np.array_equal(linear_sum_assignment(same)[1], expected)


def test_the_form_is_scipys():
    for cost in [np.zeros((0, 0)), np.zeros((0, 3)), np.zeros((3, 0)), np.array([[4, 1, 3], [2, 0, 5], [3, 2, 2]])]:
        for ours, theirs in zip(linear_sum_assignment(cost), scipy_assignment(cost)):
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)
    assert isinstance(linear_sum_assignment(np.eye(2)), tuple)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 6), (6, 3)])
def test_what_is_not_finite_is_refused(value, dtype, shape):
    cost = np.ones(shape, dtype)
    cost[-1, -1] = value
    message = f"cost holds .* at row {shape[0] - 1}, column {shape[1] - 1}: every value must be finite"
    for maximize in [False, True]:
        with pytest.raises(ValueError, match=message):
            linear_sum_assignment(cost, maximize)


@pytest.mark.parametrize(
    "cost, message",
    [
        (np.zeros(3), r"cost has the shape \(3,\), but a matrix \(n, m\) is needed"),
        (np.zeros((2, 2, 2)), r"cost has the shape \(2, 2, 2\)"),
        (1.0, r"cost has the shape \(\)"),
        (np.zeros((2, 2), complex), "cost has the data type complex128: real numbers are needed"),
        ([["a", "b"], ["c", "d"]], "cost has the data type <U1"),
        (np.array([[None]]), "cost has the data type object"),
        ([[1, 2], [3]], "inhomogeneous"),
    ],
)
def test_what_is_no_matrix_is_refused(cost, message):
    with pytest.raises(ValueError, match=message):
        linear_sum_assignment(cost)
