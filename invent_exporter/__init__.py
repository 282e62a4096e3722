"""Serve the runs of Invent workflows as Prometheus metrics, each run counted once."""

__version__ = "0.1.0"
