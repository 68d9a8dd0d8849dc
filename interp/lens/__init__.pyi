from .jacobian.fitting import fit_jacobian_lens as fit_jacobian_lens
from .jacobian.lens import JacobianLens as JacobianLens
from .logit import logit_lens as logit_lens
from .training import train_tuned_lens as train_tuned_lens
from .tuned import TunedLens as TunedLens
