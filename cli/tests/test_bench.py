"""`paybill bench` says what it can measure; measuring itself is for `make bench`."""

from paybill_bench.figures import BENCHMARKS, Figure, benchmark
from paybill_cli.exit_codes import ExitCode


def test_a_benchmark_that_does_not_exist_is_refused_with_those_that_do(paybill) -> None:
    done = paybill("bench", "speed")

    assert done.code == ExitCode.USAGE
    assert "unknown_benchmark" in done.err
    assert all(name in done.err for name in BENCHMARKS)


def test_every_benchmark_that_is_named_can_be_measured() -> None:
    assert all(callable(benchmark(name)) for name in BENCHMARKS)


def test_a_figure_says_whether_its_target_is_met() -> None:
    assert Figure("a", 0.5, least=0.5).as_dict()["met"] is True
    assert Figure("a", 6.01, most=6).as_dict() == {
        "key": "a",
        "value": 6.01,
        "unit": "",
        "target": "<= 6",
        "met": False,
    }
    assert Figure("a", 1).as_dict()["met"] is None
