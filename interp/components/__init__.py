"""A model taken apart into what writes to the residual stream and what reads from it."""
