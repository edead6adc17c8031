"""Command line `python -m paybill_tenant [serve | migrate | replay]`."""

from paybill_runtime.main import run

from paybill_tenant.app import service

run(service())
