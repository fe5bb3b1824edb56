"""Cards, lists, descriptions and ONNX files."""

from __future__ import annotations

import json

from edge_app.core.model_card import ModelCard
from edge_app.model_store import catalogue, fingerprint, shipped
from edge_app.model_store.describe import Description, check_card, read_description
from edge_app.model_store.onnx_inspect import inspect, inspect_bytes, with_metadata
from edge_app.system.data_folder import Home
from tests.fuzz.harness import entry_point, say
from tests.model_store import onnx_by_hand as by_hand
from tests.model_store.test_install import COLOURS


def _cards():
    shipped_cards = [inspect(entry.path).card for entry in shipped.entries()]
    return [card.to_json().encode() for card in (COLOURS, *shipped_cards)]


def _text(data):
    """As protobuf gives a text: bytes that are no UTF-8 are replaced."""
    return data.decode("utf-8", "replace")


@entry_point("json", _cards, share=0.5)
def card(data, folder):
    """`models show FILE.onnx` of a file whose card was edited; what is shown in full, and as JSON."""
    text = _text(data)
    path = folder / "net.onnx"
    path.write_bytes(with_metadata(by_hand.colour_classifier(), {ModelCard.KEY: text}))
    file = inspect(path)
    read = file.card
    check_card(read, file)
    fingerprint.claims_of(read)
    return read.to_json() + say("models", "show", path, "--home", folder) + say("models", "show", path, "--json")


@entry_point("json", _cards, share=3)
def card_as_read(data, folder):
    """A card as the runtime reads it, without the graph that it would have to fit."""
    read = ModelCard.from_json(_text(data))
    assert ModelCard.from_json(read.to_json()) == read
    return "\n".join((read.id, read.licence, read.origin, *read.labels, *read.metrics, *read.provenance))


def _proofs():
    outputs = [[0.25 * row + column for column in range(3)] for row in range(5)]
    return [json.dumps({"sample": "ab", "claims": fingerprint.claims_of(COLOURS), "outputs": outputs}).encode()]


@entry_point("json", _proofs, share=3)
def proof(data, folder):
    """What the maker of a model measured, inside the file."""
    text = _text(data)
    found = fingerprint.read({fingerprint.KEY: text}, "net.onnx")
    return "" if found is None else found.to_json() + " ".join(fingerprint.changed_claims(found, COLOURS))


def _lists():
    entry = {"id": "colours", "precision": "fp32", "task": "classification", "file": "colours-fp32-aaaaaaaaaaaa.onnx"}
    entry |= {"sha256": "a" * 64, "bytes": 954}
    return [json.dumps({"models": [entry, entry | {"precision": "int8"}]}).encode(), b'{"models": []}']


@entry_point("json", _lists, share=0.5)
def installed_list(data, folder):
    """`installed.json`, and the commands that read it."""
    home = Home(folder / "home")
    home.models_dir.mkdir(parents=True)
    catalogue.list_path(home).write_bytes(data)
    (home.models_dir / "colours-fp32-aaaaaaaaaaaa.onnx").write_bytes(by_hand.colour_classifier())
    shown = "".join(f"{entry.id} {entry.path} {entry.task}\n" for entry in catalogue.installed(home))
    return shown + say("models", "verify", "--home", home.path)


_TOML = b"""task = "classification"
id = "colours"
labels = ["red", "green", "blue"]
mean = 127.5
std = [127.5, 127.5, 127.5]
licence = "CC0-1.0"
commercial_use = true
temperature = 2
unsure_below = 0.5
origin = "made by hand"
operating_points = [
  {fmr = 0.01, threshold = 0.4, impostor_pairs = 10000},
  {fmr = 0.001, threshold = 0.5, impostor_pairs = 10000},
]
"""


@entry_point("toml", [_TOML, b'preset = "arcface"\nid = "mine"\nembedding_size = 128\n'], share=3)
def description(data, folder):
    """`models add --describe FILE.toml`, up to the card."""
    (folder / "net.toml").write_bytes(data)
    described = read_description(folder / "net.toml")
    file = inspect_bytes(by_hand.colour_classifier(), "net.onnx")
    made = described.over(Description(task="classification", labels=("a", "b", "c"))).card(file, "0" * 64)
    check_card(made, file)
    return made.to_json()


def _networks():
    card_text = {ModelCard.KEY: COLOURS.to_json()}
    tensors = [by_hand.floats("w", [2, 3], [1.0] * 6)]
    return [
        with_metadata(by_hand.colour_classifier(), card_text),
        by_hand.network(tensors, [by_hand.node("Add", ["input", "w"], ["z"])]),
        catalogue.build(None, "mtcnn-pnet", "fp32").path.read_bytes(),
    ]


@entry_point("bytes", _networks)
def onnx_file(data, folder):
    """An ONNX file that was damaged or made by hand, looked into without running it."""
    path = folder / "net.onnx"
    path.write_bytes(data)
    file = inspect(path)
    return "" if file.card is None else say("models", "show", path, "--home", folder)
