"""Operating points and an embedder's card, for tests that care about few of their values."""

from edge_app.core.model_card import InputSpec, ModelCard, OperatingPoint


def points(*at, templates=(1, 2), shift=0.0, pairs=1000, evened=False):
    """A point for each (fmr, threshold) and number of templates; each further template raises thresholds by `shift`."""
    return tuple(
        OperatingPoint(fmr, threshold + (count - 1) * shift, pairs, count, evened)
        for count in templates
        for fmr, threshold in at
    )


def embedder_card(**changes):
    """An embedder for faces, without operating points."""
    values = {
        "id": "m",
        "task": "face-embedding",
        "family": "embedding",
        "input": InputSpec("input", 112, 112),
        "outputs": ("embedding",),
        "precision": "fp32",
        "licence": "CC0-1.0",
        "commercial_use": True,
        "origin": "made up",
        "origin_sha256": "0" * 64,
        "crop": "arcface-112",
        "embedding_size": 8,
    }
    return ModelCard(**values | changes)
