"""Billing provider `stripe`: the adapter between Stripe's API and the port of billing providers."""
