from .activations import activation_difference as activation_difference
from .compare import Comparison as Comparison
from .compare import compare_models as compare_models
from .crossing import patch_across as patch_across
from .means import mean_difference as mean_difference
from .shares import change_shares as change_shares
from .swaps import swap_modules as swap_modules
from .weights import weight_difference as weight_difference
