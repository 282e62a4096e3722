"""Dashboards, recording rules and alerts for invent-exporter, and what generates them."""

import warnings

# Said by the library's own import. The second schema needs Grafana 12; the first is loaded by all.
warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
