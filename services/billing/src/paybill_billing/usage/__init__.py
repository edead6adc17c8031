"""Context that counts metered usage in windows, enforces quotas and reports closed windows to the provider."""
