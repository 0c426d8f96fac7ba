"""gRPC over HTTP/2: connections, messages, services."""
