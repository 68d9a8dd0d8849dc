"""A store's folder: who owns it, what is in it, filling, budget, and mending."""
