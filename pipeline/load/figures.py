"""Figures out of many measurements: percentiles, medians, and how fast something grows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of latencies, in milliseconds."""

    p50: float
    p95: float
    p99: float


def percentiles(seconds: ArrayLike) -> Percentiles:
    """The percentiles of latencies in seconds; nan where there are none."""
    latencies = np.asarray(seconds, np.float64)
    if not latencies.size:
        return Percentiles(p50=float("nan"), p95=float("nan"), p99=float("nan"))
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]) * 1e3
    return Percentiles(p50=float(p50), p95=float(p95), p99=float(p99))


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """How much a value grows in a unit of time: the median of the slopes between all pairs of points.

    One outlier, or one step up and down again, hardly moves it (Theil 1950, Sen 1968).
    https://doi.org/10.1080/01621459.1968.10480934
    """
    at, value = np.asarray(times, np.float64), np.asarray(values, np.float64)
    first, second = np.triu_indices(len(at), k=1)
    apart = at[second] - at[first]
    if not (apart > 0).any():
        return 0.0
    return float(np.median((value[second] - value[first])[apart > 0] / apart[apart > 0]))
