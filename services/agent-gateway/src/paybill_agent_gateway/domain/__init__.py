"""Decisions of the agent gateway: pure functions over its states."""
