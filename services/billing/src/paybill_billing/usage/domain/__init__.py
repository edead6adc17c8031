"""Rules of usage: meters, windows, quotas, distinct counts, closed windows and publishers' grants."""
