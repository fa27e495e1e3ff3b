"""Tar shards of samples: reading, writing, captions, the policy for bad samples."""
