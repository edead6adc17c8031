"""`python -m paybill_billing [serve | migrate | replay]`."""

from paybill_runtime.main import run

from paybill_billing.app import service

run(service())
