"""`python -m paybill_cli` is `paybill`."""

from paybill_cli.entry import run

run()
