"""Tests of `paybill bench` and its process; `make bench` runs the measurements."""

from paybill_bench.deadlines import StallDetector
from paybill_bench.figures import BENCHMARKS, Figure, benchmark
from paybill_cli.exit_codes import ExitCode


def test_an_unknown_benchmark_is_refused_with_the_known_names(paybill) -> None:
    done = paybill("bench", "speed")

    assert done.code == ExitCode.USAGE
    assert "unknown_benchmark" in done.err
    assert all(name in done.err for name in BENCHMARKS)


def test_every_named_benchmark_can_be_measured() -> None:
    assert all(callable(benchmark(name)) for name in BENCHMARKS)


def test_a_figure_compares_its_value_with_its_target() -> None:
    assert Figure("a", 0.5, least=0.5).as_dict()["met"] is True
    assert Figure("a", 6.01, most=6).as_dict() == {
        "key": "a",
        "value": 6.01,
        "unit": "",
        "target": "<= 6",
        "met": False,
    }
    assert Figure("a", 1).as_dict()["met"] is None


def test_a_stall_is_a_state_that_stays_the_same_for_longer_than_the_limit() -> None:
    progress = StallDetector(limit_s=0)

    assert [progress.stalled(state) for state in (1, 1, 2, 2, 3)] == [False, True, False, True, False]
    assert not StallDetector(limit_s=60).stalled(None)
