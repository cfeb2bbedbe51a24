"""Training of gated networks with PyTorch. Importing this package alone does not load torch."""
