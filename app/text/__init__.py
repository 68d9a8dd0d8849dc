"""What the screen says: markup, sentences, and the Python beside a figure."""
