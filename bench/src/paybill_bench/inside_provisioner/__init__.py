"""Processes of the benchmarks that contain the provisioner's own code: they are started, and never imported."""
