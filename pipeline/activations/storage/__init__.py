"""How shard statistics are stored, merged and committed."""
