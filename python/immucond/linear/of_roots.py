"""The analysis of tasks whose roots and labels are read already: for the packages built on it."""

from ._curves import frontier_of as frontier_of
from ._curves import noise_curve_of as noise_curve_of
from ._curves import usual_variances as usual_variances
from ._extractor import extractor_of as extractor_of
from ._extractor import sufficient_delta as sufficient_delta
from ._labelled import centred as centred
from ._labelled import task_of_inputs as task_of_inputs
from ._limit import limit_of as limit_of
from ._nearest import nearest_of as nearest_of
from ._report import report_of as report_of
from ._steps import interval_by_theta as interval_by_theta
