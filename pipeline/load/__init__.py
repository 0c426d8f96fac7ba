"""Putting a served model under load: its samples as requests, h2load and other clients, and what they are answered."""
