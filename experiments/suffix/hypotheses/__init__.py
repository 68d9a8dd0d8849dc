"""A file for each verdict."""
