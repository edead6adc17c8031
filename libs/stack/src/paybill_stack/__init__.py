"""The whole stack on one machine: what `paybill up` starts, watches, restarts and stops."""
