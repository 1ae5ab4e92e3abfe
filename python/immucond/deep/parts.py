"""The parts that `immucond.deep` is made of, for programs that load and measure whole networks."""

from ._activations import Kept as Kept
from ._features import array as array
from ._features import kappa_and_rank as kappa_and_rank
from ._fingerprint import fingerprint as fingerprint
from ._fold import FoldedHead as FoldedHead
from ._fold import refuse_saving as refuse_saving
from ._fold import replace_module as replace_module
from ._probes import ATTACKERS as ATTACKERS
from ._probes import drop as drop
from ._rir import immunity_of as immunity_of
from ._split import SplitModel as SplitModel
from ._split import module_named as module_named
