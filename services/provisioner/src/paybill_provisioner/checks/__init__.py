"""Scheduled checks of what exists at the providers: isolation of shared stacks, and drift of environments."""
