"""What a run shows while it works: progress, metrics, liveness."""
