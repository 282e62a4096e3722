"""The loop of one org: scan, record, publish, wait."""
