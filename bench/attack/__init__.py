"""Hostile APIs and clients against `exporter.py serve`: what a scrape, memory and a stop cost."""
