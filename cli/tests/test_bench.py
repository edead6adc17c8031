"""Tests of `paybill bench` and its process; `make bench` runs the measurements."""

import json
from pathlib import Path

import pytest
from paybill_bench.__main__ import measure_each
from paybill_bench.deadlines import StallDetector
from paybill_bench.figures import BENCHMARKS, Figure, benchmark, load_warning
from paybill_bench.servers import BenchmarkError
from paybill_cli.exit_codes import ExitCode

MACHINE = {"cpu": "Xeon", "cores": 2, "load": 0.5, "date": "2026-11-29T10:00:00+00:00"}
FIGURE = {"key": "start.stack_s", "value": 5.5, "unit": "s", "target": "<= 6", "met": True}


@pytest.fixture
def measured(tmp_path: Path):
    """Returns `measured(*records)`: variables with which the benchmarks' process emits these records and fails."""

    def fake(*records: dict) -> dict[str, str]:
        package = tmp_path / "paybill_bench"
        package.mkdir()
        package.joinpath("__init__.py").touch()
        lines = "".join(f"print({json.dumps(record)!r})\n" for record in records)
        package.joinpath("__main__.py").write_text(f"{lines}raise SystemExit(1)\n")
        return {"PYTHONPATH": str(tmp_path)}

    return fake


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


async def test_a_failing_benchmark_does_not_lose_the_figures_of_the_others(capsys) -> None:
    async def complete(_):
        return [Figure("a.b", 1, "x")]

    async def failing(_):
        raise BenchmarkError("it stopped at 3 of 7")

    records: list[dict] = []
    found = {"one": complete, "two": failing, "three": complete}
    complete_run = await measure_each(found, records.append, found.__getitem__)

    assert not complete_run
    assert [record["benchmark"] for record in records] == ["one", "two", "three"]
    assert [record.get("error") for record in records] == [None, "it stopped at 3 of 7", None]
    assert [len(record.get("figures", [])) for record in records] == [1, 0, 1]
    assert "it stopped at 3 of 7" in capsys.readouterr().err


async def test_the_error_of_a_task_is_the_error_of_its_benchmark(capsys) -> None:
    async def failing(_):
        raise ExceptionGroup("tasks", [ExceptionGroup("tasks", [BenchmarkError("a tenant was refused")])])

    records: list[dict] = []
    await measure_each(["one"], records.append, lambda _: failing)

    assert records[0]["error"] == "a tenant was refused"
    assert "Traceback" not in capsys.readouterr().err


def test_people_get_the_figures_before_the_error_of_a_later_benchmark(paybill, measured) -> None:
    environment = measured(
        {"benchmark": "start", "machine": MACHINE, "figures": [FIGURE]},
        {"benchmark": "idle", "machine": MACHINE, "error": "no stack"},
    )

    done = paybill("bench", **environment)

    assert done.code == ExitCode.FAILED
    assert done.rows == [["start.stack_s", "5.5", "s", "<= 6", "true"]]
    assert "1 of 2 benchmarks did not complete" in done.err
    assert "idle: no stack" in done.err


def test_a_program_gets_one_document_with_the_figures_and_the_error(paybill, measured) -> None:
    environment = measured(
        {"benchmark": "start", "machine": MACHINE, "figures": [FIGURE]},
        {"benchmark": "idle", "machine": MACHINE | {"load": 1.5}, "error": "no stack"},
    )

    done = paybill("bench", "--json", **environment)

    assert done.code == ExitCode.FAILED
    assert done.data["machine"] == MACHINE
    assert done.data["figures"] == [FIGURE]
    assert [(each["name"], each["load"], each["error"]) for each in done.data["benchmarks"]] == [
        ("start", 0.5, None),
        ("idle", 1.5, "no stack"),
    ]
    assert done.error["code"] == "bench_failed"


def test_a_load_above_the_number_of_cores_is_reported() -> None:
    assert load_warning({"load": 2.0, "cores": 2}) == ""
    assert "machine too busy (load 2.1)" in load_warning({"load": 2.1, "cores": 2})


def test_a_stall_is_a_state_that_stays_the_same_for_longer_than_the_limit() -> None:
    progress = StallDetector(limit_s=0)

    assert [progress.stalled(state) for state in (1, 1, 2, 2, 3)] == [False, True, False, True, False]
    assert not StallDetector(limit_s=60).stalled(None)
