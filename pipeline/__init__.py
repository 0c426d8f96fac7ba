"""The host side of Torchyard: from a model's source to a promotable serving image. Never imports torch."""
