"""Python runs on while a problem is solved, and threads do not disturb each other."""

import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from immiscible import assign, assign_many, linear_sum_assignment

fork = multiprocessing.get_context("fork") if sys.platform == "linux" else None


@pytest.fixture
def no_switching():
    """A thread that has the interpreter keeps it until it lets go of its own accord."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(interval)


def solvers():
    rng = np.random.default_rng(0)
    # In float32 and contiguous: NumPy, which frees the interpreter for large copies, has nothing to do.
    images, noise = rng.normal(size=(2, 1500, 8)).astype(np.float32)
    cost = rng.random((1500, 1500)).astype(np.float32)
    yield "linear_sum_assignment", lambda: linear_sum_assignment(cost)
    yield "assign", lambda: assign(images, noise)
    yield "assign_many", lambda: assign_many([images] * 2, [noise] * 2)


@pytest.mark.parametrize("name, solve", list(solvers()))
def test_the_interpreter_is_free_while_solving(no_switching, name, solve):
    gate, ran = threading.Lock(), []

    def wait():
        with gate:
            ran.append(True)

    gate.acquire()
    thread = threading.Thread(target=wait)
    thread.start()
    # From here to the check, only the solver can let the other thread run.
    gate.release()
    solve()
    progress = bool(ran)
    thread.join()
    assert progress


def test_threads_get_their_own_answers():
    rng = np.random.default_rng(1)
    batches = [rng.normal(size=(2, 60, 20)).astype(np.float32) for _ in range(40)]
    expected = [assign(x, n) for x, n in batches]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: assign(*batch), batches))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected))


def solve_in_two_generations(problem, answers):
    answers.put(assign_many(*problem))
    if multiprocessing.current_process().name != "grandchild":
        child = fork.Process(target=solve_in_two_generations, args=(problem, answers), name="grandchild")
        child.start()
        child.join()


@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_processes_solve_too():
    """As the workers of PyTorch's DataLoader do, after their parent has."""
    problem = np.random.default_rng(2).normal(size=(2, 8, 64, 20)).astype(np.float32)
    expected = assign_many(*problem)
    answers = fork.Queue()
    child = fork.Process(target=solve_in_two_generations, args=(problem, answers))
    child.start()
    try:
        for _ in range(2):
            assert np.array_equal(answers.get(timeout=30), expected)
        child.join()
    finally:
        child.kill()
