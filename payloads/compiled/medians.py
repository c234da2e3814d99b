"""Medians of many short rows."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True)
def _select(values: Any, count: int, wanted: int) -> Any:
    """The value that would be at `wanted` were the first `count` in order (Hoare 1961, CACM 4, 321); they are moved about."""
    low, high = 0, count - 1
    while low < high:
        pivot, i, j = values[(low + high) // 2], low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return values[wanted]


@njit(cache=True)
def row_medians(rows: Any) -> Any:
    """The median of each row of (n, m), float32, of what is finite in it; NaN for a row with nothing."""
    result = np.empty(rows.shape[0], dtype=np.float32)
    values = np.empty(rows.shape[1], dtype=np.float32)
    for k in range(rows.shape[0]):
        count = 0
        for x in range(rows.shape[1]):
            if isfinite(rows[k, x]):
                values[count] = rows[k, x]
                count += 1
        if count == 0:
            result[k] = np.nan
            continue
        middle = count // 2
        upper = _select(values, count, middle)
        if count % 2:
            result[k] = upper
        else:
            lower = values[0]
            for x in range(middle):  # what is below the middle is before it now
                lower = max(lower, values[x])
            result[k] = np.float32(0.5) * (lower + upper)
    return result
