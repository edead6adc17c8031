"""The `paybill` command: run it all, operate it, verify it."""
