"""What identifies a model: its numbers, its structure and code, and what it answers."""
