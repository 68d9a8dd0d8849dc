"""The pages, each of them a file; `frame` chooses what is open and which is shown."""
