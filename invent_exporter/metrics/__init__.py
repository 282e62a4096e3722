"""From what was committed to the bytes of a scrape."""
