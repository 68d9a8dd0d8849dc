"""What goes on inside while questions are answered, in tabs of which the open one is computed."""
