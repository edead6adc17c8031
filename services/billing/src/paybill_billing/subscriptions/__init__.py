"""Accounts, subscriptions and payments of tenants, changes of subscriptions, and plan migrations."""
