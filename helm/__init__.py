"""The chart, and what writes its generated parts."""
