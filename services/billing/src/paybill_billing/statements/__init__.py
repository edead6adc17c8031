"""Statements of customers: money and usage on the invoices of the provider, compared with ours."""
