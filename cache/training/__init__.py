"""Activations as a stream of shuffled batches to train on."""
