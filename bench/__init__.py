"""Benchmarks: one file for each question, each against its peer or floor in the same run."""
