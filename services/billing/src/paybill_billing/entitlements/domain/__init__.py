"""Rules of entitlements: the effective set of a tenant, overrides and grants."""
