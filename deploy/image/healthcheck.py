"""Exit 0 when the exporter in this container is healthy, else 1 with a line on what is wrong."""
# ruff: noqa: INP001 - a script of the image, not a module

import http.client
import os
import sys

PORT = int(os.environ.get("HEALTHCHECK_PORT", "10480"))
TIMEOUT_SECONDS = 4

try:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT_SECONDS)
    connection.request("GET", "/-/healthy")
    status = connection.getresponse().status
except OSError as error:
    sys.exit(f"http://127.0.0.1:{PORT}/-/healthy: {error}")
if status != http.client.OK:
    sys.exit(f"http://127.0.0.1:{PORT}/-/healthy: status {status}, expected 200")
