"""Which pages a poll reads, and when it may stop: pure decisions."""
