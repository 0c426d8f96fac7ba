"""Decides between torch.jit.script and torch.jit.trace from evidence, and says why.

What reads the model's code knows torch by name only, so that it can be used and tested where there is no torch.
"""
