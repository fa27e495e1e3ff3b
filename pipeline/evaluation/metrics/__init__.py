"""Metrics: what a picture is worth, measured on the picture as it is published."""
