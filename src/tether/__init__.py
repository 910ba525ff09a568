"""Tether: the human-feedback loop of language models."""

__version__ = "0.1.0"
