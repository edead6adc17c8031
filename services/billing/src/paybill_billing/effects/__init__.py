"""The outside world: billing providers, behind one port."""
