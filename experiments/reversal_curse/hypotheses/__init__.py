"""One file for each hypothesis of the study: from measurements to a verdict."""
