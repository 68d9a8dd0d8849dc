"""The curse under other trainings: the study's hypotheses on every arm, seed by seed."""
