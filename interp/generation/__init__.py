"""What a model says: logits, scores of answers, and text."""
