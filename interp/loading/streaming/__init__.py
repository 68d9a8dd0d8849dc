"""Blocks whose weights stay on the disk: the next is read while one computes."""
