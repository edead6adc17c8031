"""A gateway in a process of its own: it answers calls that are lines of JSON, and can be killed at a stage of a call.

`python gateway_process.py SETTINGS [STAGE]` reads settings from a file. STAGE names where the process kills itself.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

STAGES = ("before_intent", "after_intent", "in_statement", "after_statement", "after_outcome")


class GatewayProcess:
    """The process, as the test sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, settings: Any, directory: Path, stage: str = "") -> "GatewayProcess":
        """Starts the process and returns when it is ready."""
        file = directory / "gateway_process.json"
        file.write_text(settings.model_dump_json())
        arguments = [sys.executable, __file__, str(file), *([stage] if stage else [])]
        process = await asyncio.create_subprocess_exec(
            *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**20
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return cls(process)

    async def call(self, caller: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        """Returns `{answer}` or `{refused}`; `{lost: true}` when the process ended before it answered."""
        self._number += 1
        number = self._number
        self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"id": number, "caller": caller, "request": request}).encode() + b"\n")
            await self._process.stdin.drain()
        except ConnectionError:
            return {"lost": True}
        return await self._waiting[number]

    async def end(self) -> int:
        """Kills the process and returns its status."""
        if self._process.returncode is None:
            self._process.kill()
        await self._reading
        return await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            found = json.loads(line)
            self._waiting.pop(found["id"]).set_result(found)
        for waiting in self._waiting.values():
            waiting.set_result({"lost": True})


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail_at(gate: Any, stage: str) -> None:
    """Wraps the parts of a gate so that the process dies at a stage of the first write."""
    write, decide = gate.databases.write, gate.context.decide
    intended: list[bool] = []

    async def dying_write(*arguments: Any, **more: Any) -> Any:
        intended.append(True)
        if stage == "after_intent":
            _die()
        if stage == "in_statement":
            asyncio.get_running_loop().call_later(0.003, _die)
        outcome = await write(*arguments, **more)
        if stage == "after_statement":
            _die()
        return outcome

    async def dying_decide(*arguments: Any, **more: Any) -> Any:
        outcome = await decide(*arguments, **more)
        if stage == "after_outcome" and intended:
            _die()
        return outcome

    async def dying_require(*arguments: Any) -> Any:
        if stage == "before_intent":
            _die()
        return await require(*arguments)

    require = gate.databases.require
    gate.databases.write, gate.databases.require, gate.context.decide = dying_write, dying_require, dying_decide


async def _serve(settings_file: str, stage: str) -> None:
    from paybill_agent_gateway.act import Gate, act  # noqa: PLC0415  # the process alone needs the service
    from paybill_agent_gateway.app import service  # noqa: PLC0415
    from paybill_agent_gateway.domain.answers import RefusalError  # noqa: PLC0415
    from paybill_agent_gateway.domain.calls import Call, CallCaller, Start, Take  # noqa: PLC0415
    from paybill_agent_gateway.settings import Settings  # noqa: PLC0415
    from paybill_contracts.envelope import Origin  # noqa: PLC0415
    from paybill_runtime.app import Running  # noqa: PLC0415
    from paybill_runtime.telemetry import child  # noqa: PLC0415

    settings = Settings.model_validate_json(Path(settings_file).read_text())
    async with Running(service(), settings) as running:
        gate = Gate.of(running.context, monotonic)
        if stage:
            _fail_at(gate, stage)

        async def answer(message: dict[str, Any]) -> None:
            caller, request = CallCaller(**message["caller"]), message["request"]
            kind: Callable[..., Any] = Start if "workflow" in request else Take
            call = Call(caller, kind(**request), Origin("test", "test", caller.subject, child(None)))
            try:
                found: dict[str, Any] = {"answer": (await act(gate, call)).document()}
            except RefusalError as error:
                found = {"refused": error.document()}
            except Exception as error:  # noqa: BLE001  # the test decides about it
                found = {"failed": f"{type(error).__name__}: {error}"}
            sys.stdout.write(json.dumps({"id": message["id"], **found}) + "\n")
            sys.stdout.flush()

        reader = asyncio.StreamReader(limit=2**20)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        tasks: set[asyncio.Task[None]] = set()
        while line := await reader.readline():
            task = asyncio.create_task(answer(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))  # the optional stage
