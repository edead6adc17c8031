"""The chassis's own schema history."""
