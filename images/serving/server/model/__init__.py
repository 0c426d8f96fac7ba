"""The model: its contract, its archive as it is loaded and verified, and what it takes and answers."""
