"""What the model does with a fact, as figures: one fact, and all of them."""
