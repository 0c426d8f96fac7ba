"""What is counted, and forgotten."""

from server.inference.statistics import Executions, Statistics, Tally


def test_times_and_numbers_add_up() -> None:
    tally = Tally()
    tally.add(5)
    tally.add(7, 3)
    assert (tally.count, tally.ns) == (4, 12)


def test_what_was_counted_is_forgotten() -> None:
    statistics = Statistics(inferences=3, queued=2)
    statistics.success.add(5)
    statistics.batches[2] = Executions()
    statistics.forget()
    assert statistics == Statistics()
