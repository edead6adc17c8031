"""Agent gateway: agents act on the rows of tenants, within bounds that a person has published."""
