"""What is served over HTTP: routes, the overview for people, and the bounds of a client."""
