"""Command line `python -m paybill_provisioner [serve | migrate | replay]`."""

from paybill_runtime.main import run

from paybill_provisioner.app import service

run(service())
