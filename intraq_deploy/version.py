"""The package's version, in a module of its own: reading it imports nothing."""

__version__ = "0.1.0"
