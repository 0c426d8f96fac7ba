"""Serves one TorchScript archive over the Open Inference Protocol, without Python's torch."""

__version__ = "0.1.0"
