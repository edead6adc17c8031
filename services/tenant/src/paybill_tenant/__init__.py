"""The tenant service: who our customers are, and where each stands in its lifecycle."""
