"""Dashboards, recording rules and alerts for invent-exporter, and what generates them."""
