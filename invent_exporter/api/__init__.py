"""The Invent API as typed, paginated calls."""
