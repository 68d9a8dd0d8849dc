"""Each component's direct share of a logit."""
