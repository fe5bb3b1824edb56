"""Writes the costs of missing each label into the cards of an installed classifier's builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edge_app.core.errors import UsageError
from edge_app.core.model_card import ModelCard
from edge_app.model_store.catalogue import builds, open_entry
from edge_app.model_store.install import replace_card
from edge_app.model_store.shipped import Entry, entries
from edge_app.system.data_folder import Home


def set_costs(home: Home, model_id: str, costs: Mapping[str, float]) -> tuple[Entry, ...]:
    """Give every build of an installed classifier these costs; none puts back what it came with.

    Nothing else of the files changes. Raises UsageError for a model that ships or is no classifier, ModelError for a
    label that it does not know and a cost that is none.
    """
    if any(entry.id == model_id for entry in entries()):
        raise UsageError(f"{model_id} ships with the app", expected="a classifier that you installed")
    changed = []
    for entry in builds(home, model_id):
        card: ModelCard = open_entry(entry, 1).card
        if not card.task.classifies:
            raise UsageError(f"{model_id} is a model for {card.task}", expected="a classifier")
        changed.append(replace_card(home, entry, replace(card, costs=dict(costs))))
    return tuple(changed)
