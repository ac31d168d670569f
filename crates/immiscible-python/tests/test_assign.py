"""assign and assign_many against what SciPy and NumPy say."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment as scipy_assignment
from scipy.spatial.distance import cdist

import immiscible
from immiscible import assign, assign_many

SHARED = [method for method in immiscible.METHODS if method != "knn"]


def batch(seed, images, noises=None, shape=(3, 4, 4)):
    rng = np.random.default_rng(seed)
    noises = images if noises is None else noises
    draw = lambda count: rng.normal(size=(count, *shape)).astype(np.float32)
    return draw(images), draw(noises)


def inner_products(images, noise):
    flat = lambda array: array.reshape(len(array), -1).astype(np.float64)
    return flat(images) @ flat(noise).T


def total(cost, index):
    return cost[np.arange(len(index)), index].sum()


@pytest.mark.parametrize("noises", [1, 2, 3])
@pytest.mark.parametrize("images", [1, 2, 7, 32, 100])
def test_exact_is_the_optimum(images, noises):
    x, n = batch(images, images, noises * images + noises - 1)
    cost = -inner_products(x, n)
    index = assign(x, n)
    assert index.dtype == np.int64 and index.shape == (images,)
    assert len(set(index)) == images and index.min() >= 0 and index.max() < len(n)
    assert total(cost, index) == pytest.approx(total(cost, scipy_assignment(cost)[1]), rel=1e-6)


@pytest.mark.parametrize("name, metric", [("squared_l2", "sqeuclidean"), ("l2", "euclidean"), ("l1", "cityblock")])
def test_the_distances_are_scipys(name, metric):
    x, n = batch(1, 48, 80)
    cost = cdist(x.reshape(48, -1), n.reshape(80, -1), metric)
    assert total(cost, assign(x, n, cost=name)) == pytest.approx(total(cost, scipy_assignment(cost)[1]), rel=1e-6)


@pytest.mark.parametrize("method", SHARED)
def test_every_method_is_an_injection_that_helps(method):
    x, n = batch(2, 64)
    index = assign(x, n, method=method)
    assert sorted(index) == list(range(64))
    cost = -inner_products(x, n)
    assert total(cost, index) < np.trace(cost)


@pytest.mark.parametrize("labels", ["numbers", "words", "floats", "negative"])
@pytest.mark.parametrize("sets", [1, 3])
def test_images_take_noises_of_their_own_class(sets, labels):
    x, n = batch(3, 60, 60 * sets)
    numbers = np.random.default_rng(3).integers(0, 5, 60)
    labels = {
        "numbers": numbers,
        "words": np.array(["cat", "dog", "hen", "elk", "fox"])[numbers],
        "floats": numbers / 2,
        "negative": numbers - 3,
    }[labels]
    index = assign(x, n, labels=labels)
    assert np.array_equal(labels[index % 60], labels)
    cost = -inner_products(x, n)
    for label in range(5):
        rows = np.flatnonzero(numbers == label)
        columns = np.flatnonzero(np.tile(numbers, sets) == label)
        best = cost[np.ix_(rows, columns)]
        assert total(cost[rows], index[rows]) == pytest.approx(total(best, scipy_assignment(best)[1]), rel=1e-6)


@pytest.mark.parametrize("k", [1, 2, 8])
def test_knn_is_the_best_of_k(k):
    x, n = batch(4, 50, 50 * k)
    own = n.reshape(50, k, *n.shape[1:])
    best = np.einsum("bchw,bkchw->bk", x.astype(float), own.astype(float)).argmax(1)
    assert np.array_equal(assign(x, own, method="knn"), best)
    assert np.array_equal(assign(x, own, method="knn", k=k), best)
    flat = assign(x, n, method="knn", k=k)
    assert flat.dtype == np.int64
    assert np.array_equal(n[flat], own[np.arange(50), best])


def test_eight_bits_are_almost_as_good():
    x, n = batch(5, 128, shape=(3, 16, 16))
    products = inner_products(x, n)
    exact = total(products, assign(x, n))
    assert total(products, assign(x, n, precision="int8")) == pytest.approx(exact, rel=0.002)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8, ">f4"])
def test_every_real_data_type(dtype):
    x, n = batch(6, 30)
    x, n = (x * 20 + 99).astype(dtype), (n * 20 + 99).astype(dtype)
    assert np.array_equal(assign(x, n), assign(x.astype(np.float32), n.astype(np.float32)))


def test_the_memory_layout_does_not_matter():
    x, n = batch(7, 30)
    expected = assign(x, n)
    channels_last = lambda array: np.moveaxis(np.moveaxis(array, 1, -1).copy(), -1, 1)
    spread = np.zeros((60, 3, 4, 8), np.float32)
    spread[::2, :, :, ::2] = n
    assert np.array_equal(assign(channels_last(x), channels_last(n)), expected)
    assert np.array_equal(assign(x[::-1][::-1], spread[::2, :, :, ::2]), expected)
    assert np.array_equal(assign(x.tolist(), n.tolist()), expected)
    assert np.array_equal(assign(x.reshape(30, -1), n.reshape(30, -1)), expected)
    x.flags.writeable = False
    assert np.array_equal(assign(x, n), expected)


def test_contiguous_float32_is_not_copied(monkeypatch):
    x, n = batch(8, 20)
    seen = []
    native = immiscible._immiscible.assign

    def assign_and_look(problems, *options):
        seen.extend(array for problem in problems for array in problem[:2])
        return native(problems, *options)

    monkeypatch.setattr(immiscible._immiscible, "assign", assign_and_look)
    assign(x, n)
    assert len(seen) == 2
    assert np.shares_memory(seen[0], x) and np.shares_memory(seen[1], n)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    x, n = batch(9, 40)
    expected = assign(x, n)
    images, noise = torch.from_numpy(x), torch.from_numpy(n)
    assert np.array_equal(assign(images, noise), expected)
    assert np.array_equal(assign(images.requires_grad_(), noise.double()), expected)
    assert np.array_equal(noise[assign(images, noise)].numpy(), n[expected])
    labels = torch.arange(40) % 3
    assert np.array_equal(assign(images, noise, labels=labels), assign(x, n, labels=labels.numpy()))
    half = images.bfloat16(), noise.bfloat16()
    assert np.array_equal(assign(*half), assign(*(tensor.detach().float().numpy() for tensor in half)))
    channels_last = images.to(memory_format=torch.channels_last)
    assert np.array_equal(assign(channels_last, noise), expected)


def test_many_are_each_as_alone():
    batches = [batch(seed, 5 * seed + 1, 6 * seed + 1) for seed in range(12)]
    labels = [np.arange(len(x)) % 2 if i % 2 else None for i, (x, _) in enumerate(batches)]
    # A label needs as many noises as images.
    batches = [(x, n if label is None else n[: len(x)]) for (x, n), label in zip(batches, labels)]
    x, n = zip(*batches)
    found = assign_many(x, n, labels=labels)
    assert isinstance(found, list) and len(found) == 12
    for (x, n), label, index in zip(batches, labels, found):
        assert np.array_equal(index, assign(x, n, labels=label))


def test_many_in_one_array():
    x, n = batch(10, 4 * 20)
    x, n = x.reshape(4, 20, 3, 4, 4), n.reshape(4, 20, 3, 4, 4)
    found = np.stack(assign_many(x, n, labels=np.arange(80).reshape(4, 20) % 2))
    assert found.shape == (4, 20)
    for g in range(4):
        assert np.array_equal(found[g], assign(x[g], n[g], labels=np.arange(80).reshape(4, 20)[g] % 2))
    flat = assign_many(x[:2], np.repeat(n[:2], 3, axis=1), method="knn", k=3)
    assert [index // 3 for index in flat][0].tolist() == list(range(20))
    assert assign_many([], []) == []


def test_empty_batches():
    assert assign(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)
    assert assign(np.zeros((0, 3)), np.zeros((0, 2, 3)), method="knn").shape == (0,)


GOOD = np.ones((4, 2, 3), np.float32)
BAD = GOOD.copy()
BAD[2, 1, 0] = np.nan


@pytest.mark.parametrize(
    "images, noise, options, message",
    [
        (GOOD, GOOD, {"method": "best"}, 'there is no assigner "best": the assigners are .*exact.*knn'),
        (GOOD, GOOD, {"cost": "cosine"}, 'there is no cost "cosine": the costs are dot'),
        (GOOD, GOOD, {"precision": "int4"}, 'there is no precision "int4": the precisions are float32, int8'),
        (BAD, GOOD, {}, "images holds NaN at row 2, column 3: every value must be finite"),
        (GOOD, BAD, {}, "candidates holds NaN at row 2, column 3"),
        (GOOD, GOOD[:3], {}, "4 .*3"),
        (GOOD, GOOD[:, :1], {}, r"noise has the shape \(4, 1, 3\), but \(4, 2, 3\) is needed"),
        (GOOD, GOOD.reshape(4, 6), {}, r"noise has the shape \(4, 6\), but \(4, 2, 3\) is needed"),
        (GOOD, 1.0, {}, r"noise has the shape \(\)"),
        (GOOD[0, 0], GOOD[0, 0], {}, r"images has the shape \(3,\), but \(B, ...\) is needed"),
        (GOOD, GOOD, {"labels": [0, 1]}, r"labels has the shape \(2,\), but \(4,\) is needed"),
        (GOOD, GOOD, {"labels": GOOD}, r"labels has the shape \(4, 2, 3\)"),
        (GOOD, GOOD, {"method": "knn"}, '"knn" needs k noises for each image'),
        (GOOD, GOOD, {"method": "knn", "k": 2}, r"noise has the shape \(4, 2, 3\), but \(8, 2, 3\) is needed"),
        (GOOD, np.ones((4, 3, 2, 3)), {"method": "knn", "k": 2}, r"\(4, 2, 2, 3\) is needed"),
        (GOOD, np.ones((3, 3, 2, 3)), {"method": "knn"}, r"\(4, 3, 2, 3\) is needed"),
        (GOOD, np.ones((4, 0, 2, 3)), {"method": "knn"}, "candidates"),
        (GOOD, np.ones((4, 2, 2, 3)), {}, '"exact" shares one set of noises among all images'),
        (GOOD, GOOD, {"k": 1}, '"exact" shares one set of noises'),
        (GOOD.astype(np.complex64), GOOD, {}, "images has the data type complex64: real numbers are needed"),
        (GOOD, [["a"]], {}, "noise has the data type"),
    ],
)
def test_bad_input_is_a_value_error_of_one_line(images, noise, options, message):
    with pytest.raises(ValueError, match=message) as error:
        assign(images, noise, **options)
    assert "\n" not in str(error.value)


def test_the_bad_one_of_many_is_named():
    with pytest.raises(ValueError, match="problem 1: images holds NaN at row 2"):
        assign_many([GOOD, BAD, BAD], [GOOD] * 3)
    with pytest.raises(ValueError, match="2 batches of images, 1 of noise and 2 of labels: one each is needed"):
        assign_many([GOOD, GOOD], [GOOD])
