"""Tests of what ships the exporter: chart, image, compose stack, packages."""
