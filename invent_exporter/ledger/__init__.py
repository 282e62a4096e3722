"""Remembers which runs were counted and what the counters say, and changes both at once."""
