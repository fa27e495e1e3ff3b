"""Checks of a finished atlas or site."""
