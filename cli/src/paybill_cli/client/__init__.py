"""Clients of a running stack: its addresses, its services' HTTP, and its event log."""
