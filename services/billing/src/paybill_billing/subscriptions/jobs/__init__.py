"""Background jobs: effects at the provider, and plan migrations."""
