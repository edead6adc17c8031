"""HTTP routes of webhooks, for providers and for operators."""
