"""Calls to tenants' databases."""
