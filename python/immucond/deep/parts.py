"""The parts that `immucond.deep` is made of, for programs that load and measure whole networks."""

from ._activations import Kept as Kept
from ._attacked import layer_by_layer as layer_by_layer
from ._attacked import with_new_head as with_new_head
from ._batches import kappa_and_rank as kappa_and_rank
from ._checkpoint import fingerprint as fingerprint
from ._head import SplitModel as SplitModel
from ._network import FoldedHead as FoldedHead
from ._network import Inserted as Inserted
from ._network import TwoLayers as TwoLayers
from ._network import array as array
from ._network import module_named as module_named
from ._network import refuse_saving as refuse_saving
from ._network import replace_module as replace_module
from ._probes import BATCH as BATCH
from ._probes import Rows as Rows
from ._probes import descend as descend
from ._probes import drop as drop
from ._probes import rows_of as rows_of
from ._probes import whitened as whitened
from ._rir import immunity_of as immunity_of
from .attacks import parse_attackers as parse_attackers
from .gauge import insert_again as insert_again
