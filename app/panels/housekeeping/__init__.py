"""What the explorer does and holds now: jobs, kept results, models, and stores of activations."""
