"""The product's version: the build reads it from here, so it is known without being installed."""

__version__ = "0.1.0"
