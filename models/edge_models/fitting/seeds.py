"""Seeds drawn from a run, an epoch and a picture."""

from __future__ import annotations

import numpy as np


def seed_of(*parts: int) -> int:
    """One seed from several numbers: run, epoch, picture. 63 bits."""
    return int(np.random.SeedSequence([abs(part) for part in parts]).generate_state(1, np.uint64)[0] >> np.uint64(1))
