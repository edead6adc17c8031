"""Statements of customers: money and usage in the books of the provider, compared with ours."""
