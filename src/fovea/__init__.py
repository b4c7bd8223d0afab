"""Fovea: vision-language-action policies that look at the right place."""

__version__ = "0.1.0"
