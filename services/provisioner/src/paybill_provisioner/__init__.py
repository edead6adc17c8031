"""Provisioner service: environments of tenants, planned from blueprints and built by drivers."""
