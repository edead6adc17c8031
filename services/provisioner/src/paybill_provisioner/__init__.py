"""Paybill's provisioner: what tenants run on, planned from blueprints and built by drivers."""
