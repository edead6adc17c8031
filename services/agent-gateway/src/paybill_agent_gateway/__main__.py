"""Command line `python -m paybill_agent_gateway [serve | migrate | replay]`."""

from paybill_runtime.main import run

from paybill_agent_gateway.app import service

run(service())
