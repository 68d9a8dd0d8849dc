"""From a name, a folder or a model in memory to a checked model."""
