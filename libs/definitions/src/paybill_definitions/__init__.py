"""Reads the files that people publish, such as plans.yaml, and checks them without a server."""
