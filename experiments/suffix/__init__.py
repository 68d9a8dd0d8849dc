"""The study of universal suffixes: tokens that undo declining, and the heads that read them."""
