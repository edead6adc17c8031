"""Benchmarks of Paybill: each figure is compared with a peer's, measured in the same run on the same servers."""
