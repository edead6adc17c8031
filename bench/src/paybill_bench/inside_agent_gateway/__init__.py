"""Processes of the benchmarks that contain the agent gateway's code."""
