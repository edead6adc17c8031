"""`python -m paybill_cli` is `paybill`."""

from paybill_cli.main import run

run()
