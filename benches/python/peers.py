"""Times the assignment solvers that Python can import, each in turn with ours on the same array.

Reads one JSON job per line from standard input and answers each with one JSON line; the first line says what could be
imported. `cargo xtask bench assignment` starts it; to run it by hand:

    echo '{"matrices": ["cost.npy"], "rounds": 9, "budget_ms": 60000, "solvers": ["scipy"]}' | python peers.py

CPU time is that of the whole process. Copies into a solver's own type are made before its clock starts, and read once right
before: in use the matrix was just made, and is in the caches as far as it fits.
"""

import contextlib
import importlib
import importlib.metadata
import json
import platform
import sys
import time

import numpy as np

# The start that subtracts the column mean and this many standard deviations, as our solver's own.
KAPPA = 1.75


def f32(cost):
    return cost


def f64(cost):
    return cost.astype(np.float64)


def preconditioned(cost):
    """The same optimum, without the column constants that make shortest augmenting paths long."""
    cost = f64(cost)
    centred = cost - cost.mean(axis=1, keepdims=True)
    return cost - (centred.mean(axis=0) - KAPPA * centred.std(axis=0))


def plan(module):
    """POT moves mass: n rows of one unit each, whose optimal plan is a permutation."""

    def solve(cost):
        ones = np.ones(len(cost))
        # Its default of 100,000 iterations stops short of the optimum above some 1,024 rows.
        return module.emd(ones, ones, cost, numItermax=1_000_000_000)

    return solve


def of_pairs(answer):
    rows, columns = answer[-2:]
    taken = np.empty(len(rows), np.int64)
    taken[rows] = columns
    return taken


def first(answer):
    return answer[0]


def second(answer):
    return answer[1]


def of_plan(answer):
    return answer.argmax(axis=1)


def lap(name):
    return lambda module: getattr(module, name)


# (name, module, distributions that may bring the module, solver of the module, input, answer to columns)
SOLVERS = [
    ("ours", "immiscible", ["immiscible"], lap("linear_sum_assignment"), f32, of_pairs),
    ("SciPy", "scipy.optimize", ["scipy"], lap("linear_sum_assignment"), f64, of_pairs),
    ("SciPy, preconditioned", "scipy.optimize", ["scipy"], lap("linear_sum_assignment"), preconditioned, of_pairs),
    ("lapjv (PyPI)", "lapjv", ["lapjv"], lap("lapjv"), f32, first),
    ("lap lapjv", "lap", ["lapx", "lap"], lap("lapjv"), f64, second),
    ("lapx lapjvs", "lap", ["lapx"], lap("lapjvs"), f32, of_pairs),
    ("lapx lapjvc", "lap", ["lapx"], lap("lapjvc"), f32, of_pairs),
    ("lapx lapjvr", "lap", ["lapx"], lap("lapjvr"), f32, of_pairs),
    ("lapx lapjvh", "lap", ["lapx"], lap("lapjvh"), f32, of_pairs),
    ("POT emd", "ot", ["POT"], plan, f64, of_plan),
]


def importable():
    """The solvers by name, the versions of what brings them, and why others are missing."""
    solvers, versions, missing = {}, {"Python": platform.python_version(), "numpy": np.__version__}, {}
    for name, module, distributions, solver, prepare, columns in SOLVERS:
        try:
            solve = solver(importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            missing[name] = str(error)
            continue
        for distribution in distributions:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[distribution] = importlib.metadata.version(distribution)
                break
        solvers[name] = (solve, prepare, columns)
    return solvers, versions, missing


def timed(solve, cost):
    cost.sum()
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    answer = solve(cost)
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    return answer, cpu / 1e6, wall / 1e6


def total(cost, columns):
    """The cost of an answer, in double precision; None if it is not a permutation."""
    n = len(cost)
    if not np.array_equal(np.sort(columns), np.arange(n)):
        return None
    return float(cost[np.arange(n), columns].astype(np.float64).sum())


def race(job, solvers):
    """Every solver in every round, ours right before it, until its share of time is used up."""
    costs = [np.load(matrix) for matrix in job["matrices"]]
    ours = solvers.get("ours")
    results, running = {}, []
    for name in job["solvers"]:
        solve, prepare, columns = solvers[name]
        results[name] = {"cpu_ms": [], "wall_ms": [], "ours_cpu_ms": [], "totals": [], "error": None}
        running.append((name, solve, [prepare(cost) for cost in costs], columns))
    for turn in range(job["rounds"]):
        turn %= len(costs)
        for name, solve, prepared, columns in list(running):
            result = results[name]
            try:
                if ours:
                    result["ours_cpu_ms"].append(timed(ours[0], costs[turn])[1])
                answer, cpu_ms, wall_ms = timed(solve, prepared[turn])
                result["cpu_ms"].append(cpu_ms)
                result["wall_ms"].append(wall_ms)
                result["totals"].append(total(costs[turn], columns(answer)))
            except Exception as error:  # a peer may raise whatever it likes: it is reported, the others go on
                result["error"] = f"{type(error).__name__}: {error}"
            if result["error"] or sum(result["cpu_ms"]) >= job["budget_ms"]:
                running = [entry for entry in running if entry[0] != name]
    return results


def main():
    # What peers print must not get between our lines.
    output, sys.stdout = sys.stdout, sys.stderr
    solvers, versions, missing = importable()

    def answer(value):
        print(json.dumps(value), file=output, flush=True)

    answer({"solvers": list(solvers), "versions": versions, "missing": missing})
    for line in sys.stdin:
        answer(race(json.loads(line), solvers))


if __name__ == "__main__":
    main()
