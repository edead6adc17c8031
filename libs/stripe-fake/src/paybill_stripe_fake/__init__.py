"""Fake Stripe: the part of Stripe's API and webhooks that billing needs, as a separate process."""

API_VERSION = "2026-10-28.endive"
"""The version of Stripe's API whose object shapes are returned, whatever version a client requests."""
