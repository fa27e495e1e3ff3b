"""Mergeable statistics of every unit over a data set: one pass, shard statistics per tar shard, one store."""
