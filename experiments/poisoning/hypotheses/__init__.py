"""What follows from it: pure functions from measurements to verdicts."""
