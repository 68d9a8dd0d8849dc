"""The index of a store: a database of what stands in which shard."""
