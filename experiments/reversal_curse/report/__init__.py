"""The report of a run: its figures, and the paper that they stand in."""
