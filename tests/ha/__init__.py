"""The proof that replicas which share a PostgreSQL database lose no run and count none twice."""
