"""Mergeable statistics of every unit over a data set: one pass, one partial per tar shard, one store."""
