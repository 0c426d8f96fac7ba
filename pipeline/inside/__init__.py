"""What runs inside pytorch-cuda, one process a script: imports torch, and of Torchyard nothing but this folder."""
