"""Background jobs of reconciliation: runs, and the redelivery poll."""
