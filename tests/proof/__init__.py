"""A model of the API in memory, of the numbers and of a scraper, and a process that can be killed.

With these the real collector, ledger, publisher and exposition run without a network, under a clock
that the test turns.
"""
