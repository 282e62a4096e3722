"""What is served over HTTP: routes, the page for people, and the bounds of a client."""
