"""Exit 0 when the exporter in this container is healthy, else 1 with a line on what is wrong.

An argument is the path to ask for instead, such as /-/ready.

HEALTHCHECK_ADDRESS is what `--web.health-address` was given, where that is used: `unix:///path` or
HOST:PORT; else HEALTHCHECK_PORT is the exporter's own port.
"""
# ruff: noqa: INP001 - a script of the image, not a module

import http.client
import os
import socket
import sys

ADDRESS = os.environ.get("HEALTHCHECK_ADDRESS") or (
    f"127.0.0.1:{os.environ.get('HEALTHCHECK_PORT', '10480')}"
)
PATH = sys.argv[1] if sys.argv[1:] else "/-/healthy"
TIMEOUT_SECONDS = 4

try:
    if ADDRESS.startswith("unix://"):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(TIMEOUT_SECONDS)
        connection.sock.connect(ADDRESS.removeprefix("unix://"))
    else:
        connection = http.client.HTTPConnection(ADDRESS, timeout=TIMEOUT_SECONDS)
    connection.request("GET", PATH)
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"{ADDRESS}, {PATH}: {error}")
if status != http.client.OK:
    sys.exit(f"{ADDRESS}, {PATH}: status {status}, expected 200")
