"""Context that decides which features a tenant may use: its plan's, plus overrides and grants of operators."""
