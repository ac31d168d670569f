"""Compares goldens that were made anew with the committed ones.

    python check.py COMMITTED FOLDER

The same files must be there with the same content: tensors to 1e-4 of the largest committed value, lists of numbers in JSON and
TOML to 1e-6 of it, whole numbers and everything else exactly, but for the versions of the packages in JSON.
"""

import json
import sys
import tomllib
from pathlib import Path

import torch
from safetensors.torch import load_file

TOLERANCE = 1e-4
LIST_TOLERANCE = 1e-6
# Of a gradient that is zero but for rounding.
ROUNDING = 1e-7
VERSIONS = ("_diffusers_version", "transformers_version")
ABSENT = object()


def absence(committed, made):
    """What is wrong if one of two values is not there."""
    return "not committed" if committed is ABSENT else "no longer made" if made is ABSENT else None


def pairs(committed, made):
    """The entries of two dictionaries by key; one that is not there is `ABSENT`."""
    return ((key, committed.get(key, ABSENT), made.get(key, ABSENT)) for key in sorted(committed.keys() | made.keys()))


def files(folder):
    """Goldens by name: all files but the scripts and what Python makes of them."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    return {path.relative_to(folder).as_posix(): path for path in found}


def compare(committed, made):
    """What differs between two files."""
    readers = {".json": json.loads, ".toml": tomllib.loads}
    if read := readers.get(committed.suffix):
        yield from compare_fields(*(read(path.read_text(encoding="utf-8")) for path in (committed, made)))
    elif committed.suffix == ".safetensors":
        yield from compare_tensors(load_file(committed), load_file(made))
    elif committed.suffix == ".bin":
        yield from compare_tensors(*(torch.load(path, weights_only=True) for path in (committed, made)))
    elif committed.read_bytes() != made.read_bytes():
        yield "another text"


def numbers(values):
    """Whether it is a list of numbers that are not whole."""
    return isinstance(values, list) and len(values) > 1 and all(isinstance(value, float) for value in values)


def compare_fields(committed, made, where=""):
    """Fields by their paths."""
    if numbers(committed) and numbers(made) and len(committed) == len(made):
        errors, largest = [abs(old - new) for old, new in zip(committed, made)], max(map(abs, committed))
        # Written so that NaN fails.
        if not all(error <= LIST_TOLERANCE * largest for error in errors):
            yield f"{where}: off by {max(errors):.1e} where the largest value is {largest:.1e}"
        return
    if isinstance(committed, list) and isinstance(made, list):
        committed, made = (dict(enumerate(values)) for values in (committed, made))
    if isinstance(committed, dict) and isinstance(made, dict):
        for key, old, new in pairs(committed, made):
            if key not in VERSIONS:
                yield from compare_fields(old, new, f"{where}.{key}" if where else str(key))
    elif absent := absence(committed, made):
        yield f"{where}: {absent}"
    # As text, for which 1, 1.0 and true are three values.
    elif json.dumps(committed) != json.dumps(made):
        yield f"{where}: {committed!r} is now {made!r}"


def compare_tensors(committed, made):
    """Tensors by name."""
    for name, old, new in pairs(committed, made):
        if absent := absence(old, new):
            yield f"{name}: {absent}"
        elif (old.dtype, old.shape) != (new.dtype, new.shape):
            yield f"{name}: {old.dtype} {list(old.shape)} is now {new.dtype} {list(new.shape)}"
        elif not old.is_floating_point():
            if not torch.equal(old, new):
                yield f"{name}: other whole numbers"
        elif old.numel():
            error, largest = (old - new).abs().max().item(), old.abs().max().item()
            # Written so that NaN fails.
            if not error <= TOLERANCE * largest + ROUNDING:
                yield f"{name}: off by {error:.1e} where the largest value is {largest:.1e}"


def main():
    committed, made = (files(Path(folder)) for folder in sys.argv[1:3])
    differences = []
    for name, old, new in pairs(committed, made):
        if absent := absence(old, new):
            differences.append(f"{name}: {absent}")
            continue
        try:
            differences += [f"{name}: {difference}" for difference in compare(old, new)]
        except Exception as error:  # whatever the readers of damaged files raise
            differences.append(f"{name}: {error}")
    for difference in differences:
        print(difference, file=sys.stderr)
    print(f"{len(committed)} files: {len(differences)} differences")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
