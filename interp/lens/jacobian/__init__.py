"""The Jacobian lens: what a stream does to the final one, to first order, averaged over texts."""
