"""Pictures of the dashboards: histories, a Prometheus that has them, and a browser that draws."""
