"""Storage: files that are either wholly there or not there at all. Knows nothing of models."""
