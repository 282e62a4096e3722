"""Drills: incidents played against a real Prometheus and Alertmanager with the shipped rules."""
