from collections.abc import Sequence
from typing import Optional, Union

import numpy as np
from numpy.typing import NDArray

METHODS: list[str]
COSTS: list[str]

def assign(
    problems: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], Optional[NDArray[np.uint32]]]],
    method: str,
    cost: str,
    precision: str,
) -> list[NDArray[np.int64]]: ...
def linear_sum_assignment(
    cost: Union[NDArray[np.float32], NDArray[np.float64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
