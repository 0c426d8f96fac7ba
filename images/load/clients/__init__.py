"""Clients that put a server under load, in Python's standard library alone."""
