"""Percentiles in milliseconds, and a slope that an outlier does not move."""

import math

import pytest

from pipeline.load.figures import Percentiles, percentiles, slope


def test_percentiles_are_in_milliseconds() -> None:
    found = percentiles([0.001 * value for value in range(1, 102)])
    assert (found.p50, found.p95, found.p99) == pytest.approx((51, 96, 100))


def test_nothing_has_no_percentiles() -> None:
    assert all(math.isnan(value) for value in (percentiles([]).p50, percentiles([]).p99))
    assert percentiles([0.002]) == Percentiles(p50=2, p95=2, p99=2)


def test_a_slope_is_found_despite_an_outlier() -> None:
    times = [float(at) for at in range(20)]
    grown = [100 + 3 * at for at in times]
    grown[7] = 1e6
    assert slope(times, grown) == pytest.approx(3)


def test_what_goes_up_and_down_does_not_grow() -> None:
    assert slope(list(range(20)), [100.0 + (at % 2) for at in range(20)]) == pytest.approx(0, abs=0.02)
    assert slope([1.0], [5.0]) == slope([], []) == 0
