"""Training says nothing of its libraries, and leaves warnings and loggers as they were."""

import logging
import warnings

from edge_models.fitting.callbacks import quiet


def test_what_was_loud_is_quiet_inside_and_as_it_was_afterwards():
    logger = logging.getLogger("lightning.pytorch")
    before = list(warnings.filters), logger.level
    with quiet():
        assert list(warnings.filters) != before[0] and logger.level == logging.ERROR
    assert (list(warnings.filters), logger.level) == before
