"""The `paybill` command: runs, operates and verifies Paybill."""
