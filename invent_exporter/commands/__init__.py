"""The commands beside `serve`, one module each."""
