"""The study of prompt injection: an instruction inside the data takes the place of the task."""
