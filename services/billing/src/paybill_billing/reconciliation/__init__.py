"""Reconciliation: comparison of a provider's subscriptions with ours."""
