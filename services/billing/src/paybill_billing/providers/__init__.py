"""Billing providers: their port, the implementations, and their registry."""
