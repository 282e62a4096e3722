"""What is written for operators; `reference.py` makes the pages that repeat the code."""
