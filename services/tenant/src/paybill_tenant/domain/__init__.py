"""Rules of the tenant service: tenants and the options of a sign-up. No I/O."""
