"""What a probe is held against: folds, shuffled labels, and what chance makes of them."""
