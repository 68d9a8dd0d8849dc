"""Jobs: long work that sessions share, what it is asked, and where its results are kept."""
