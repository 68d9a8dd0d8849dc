"""Parts of the page that lays two states side by side."""
