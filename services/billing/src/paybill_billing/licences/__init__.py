"""Context that issues, signs, renews and revokes licences for installations that cannot reach the service."""
