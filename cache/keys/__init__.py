"""What names an activation: space, tokens and site; and what computes it."""
