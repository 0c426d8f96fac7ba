"""REST over HTTP/1.1: connections and their limits, bodies, routes."""
