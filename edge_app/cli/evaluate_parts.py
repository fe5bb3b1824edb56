"""What every kind of `evaluate` needs: the settings, the parts opened with one thread, estimates in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge_app.cli import options
from edge_app.cli.parameters import Arguments

if TYPE_CHECKING:
    from edge_app.accuracy.lfw_pairs import LfwPairs
    from edge_app.inference.embedder import Embedder
    from edge_app.model_store.choose_build import Choice


def pairs_of(args: Arguments) -> LfwPairs | None:
    """The list of pairs that was given."""
    from edge_app.accuracy.lfw_pairs import lfw_pairs

    return None if args.pairs is None else lfw_pairs(args.pairs, args.folder)


def settings_of(args: Arguments) -> tuple[Any, Any]:
    """The data folder and its settings, with the embedder that --model names."""
    home, chosen = options.settings(args)
    return home, chosen if args.model is None else replace(chosen, embedder=args.model)


def open_embedder(home: Any, chosen: Any) -> tuple[Embedder, Choice]:
    """The embedder of the settings with one thread, and which build it is."""
    from edge_app.inference import onnx_model
    from edge_app.inference.embedder import Embedder
    from edge_app.model_store.choose_build import choose

    choice = choose(chosen.embedder, chosen.precision, home, 1)
    return Embedder(onnx_model.load(choice.entry.path, threads=1, sha256=choice.entry.sha256)), choice


def open_detector_of(args: Arguments, home: Any, name: str) -> Any:
    """The detector of the settings with one thread."""
    from edge_app.model_store.open_detector import open_detector

    return open_detector(name, options.detector_options(args), threads=1, home=home)


def share_of(estimate: Mapping[str, Any], digits: int = 2) -> str:
    """An estimate with its interval, in words."""
    if estimate["value"] is None:
        return "not measured"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:.{digits}%}"
    return f"{estimate['value']:.{digits}%} ({estimate['low']:.{digits}%} to {estimate['high']:.{digits}%})"
