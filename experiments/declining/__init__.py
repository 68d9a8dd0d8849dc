"""What studies of declining share: invented things of some kinds, and what a model says next."""
