"""What a step of training on one prompt would do to another."""
