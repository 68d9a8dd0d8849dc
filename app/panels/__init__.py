"""Parts of pages: one instrument or one table each."""
