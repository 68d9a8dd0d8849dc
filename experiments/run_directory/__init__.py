"""What lies in a run directory: its files, what they hold, and that they are whole."""
