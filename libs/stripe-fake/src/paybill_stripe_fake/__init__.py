"""A stand-in for Stripe: the part of its API and its webhooks that billing needs, as a process of its own."""

API_VERSION = "2026-10-28.endive"
"""The version of Stripe's API whose shapes are answered, whatever version a client asks for."""
