"""The one trainer: a deterministic loop that goes on where it was stopped, and recipes for it."""
