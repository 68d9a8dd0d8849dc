"""The frame that studies of a phenomenon stand on: organisms, arms, seeds, verdicts, a report."""
