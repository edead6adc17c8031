"""Tenant service: our customers and their lifecycle."""
