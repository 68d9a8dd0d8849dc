"""What the residual stream says at each layer, in the words of the vocabulary."""

from interp.lens.logit import logit_lens
from interp.lens.training import train_tuned_lens
from interp.lens.tuned import TunedLens

__all__ = ["TunedLens", "logit_lens", "train_tuned_lens"]
