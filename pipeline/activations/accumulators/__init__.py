"""Mergeable statistics of the activation pass."""
