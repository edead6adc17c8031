"""Billing: what our customers subscribed to, what that entitles them to, and what they used and paid."""
