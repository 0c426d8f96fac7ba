"""h2load: how it is asked, and how its log and summary are read."""

import pytest

from pipeline.load import h2load
from pipeline.load.bodies import Body

SUMMARY = """
finished in 1.00s, 4.00 req/s, 97B/s
requests: 5 total, 5 started, 5 done, 3 succeeded, 2 failed, 1 errored, 0 timeout
status codes: 3 2xx, 0 3xx, 0 4xx, 1 5xx
traffic: 291B (291) total, 183B (183) headers (space savings 0.00%), 15B (15) data
"""
LOG = "2000000\t200\t500000\n1000000\t200\t1000000\n1000500\t503\t100\n3000000\t-1\t0\n2500000\t200\t500000\n"


def test_rows_are_ordered_by_their_start() -> None:
    log = h2load.parse(LOG, SUMMARY)
    assert log.starts.tolist() == [1.0, 1.0005, 2.0, 2.5, 3.0]
    assert log.statuses.tolist() == [200, 503, 200, 200, -1]
    assert log.latencies.tolist() == [1.0, 0.0001, 0.5, 0.5, 0.0]
    assert (log.failed, log.data) == (2, 15)


def test_throughput_counts_answers_from_the_first_start_to_the_last_end() -> None:
    assert h2load.parse(LOG, SUMMARY).throughput == pytest.approx(4 / 2.0)
    assert h2load.parse("", SUMMARY).throughput == 0
    assert h2load.parse("1\t-1\t0\n", SUMMARY).throughput == 0


def test_what_is_no_summary_is_told() -> None:
    with pytest.raises(ValueError, match=r"no summary of h2load's:\nwhatever"):
        h2load.parse("", "whatever")


@pytest.mark.parametrize(("fields", "versions"), [((), ["--h1"]), ((("te", "trailers"),), [])])
def test_http_1_is_asked_for_other_than_for_grpc(fields: tuple[tuple[str, str], ...], versions: list[str]) -> None:
    body = Body(path="/here", fields=fields, content=b"")
    found = h2load.arguments(body, file="/body", log="/log", port=8080, clients=4, amount="--requests=8")
    assert [argument for argument in found if argument == "--h1"] == versions
    assert found[-1] == "http://127.0.0.1:8080/here"
    assert {"--clients=4", "--requests=8", "--data=/body", "--log-file=/log"} <= set(found)
