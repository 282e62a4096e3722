"""YAML, environment and secret files become one frozen, typed `Config`."""
