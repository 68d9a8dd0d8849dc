"""A loaded model: its tokenizer, its identity, and how much of it fits into memory."""
