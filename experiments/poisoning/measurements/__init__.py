"""What is measured in each model: pure functions, values per example out."""
