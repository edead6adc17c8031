"""The rules of the tenant service: tenants, and what they may ask for. No I/O in here."""
