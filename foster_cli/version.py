"""The version of foster, in one place."""

__version__ = "0.1.0"
