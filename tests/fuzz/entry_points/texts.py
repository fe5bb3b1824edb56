"""Names and other texts from outside: what is accepted, and what a terminal is shown."""

from __future__ import annotations

import json

from edge_app.core.errors import EdgeError
from edge_app.core.names import ID, same_but_for_case, slug, valid_name
from edge_app.core.plain_text import json_line, plain
from edge_app.gallery.storage import Vault
from edge_app.model_store.describe import read_labels
from tests.fuzz.harness import entry_point, parsed_texts, say
from tests.gallery.test_storage import shots

_NAMES = [
    "Ada Lovelace",
    "Zoë",
    "نیم\u200cفاصله",
    "क्\u200dष",
    "李小龍",
    "O'Brien",
    "a" * 80,
    "👩\u200d🚀",
    "ada lovelace",
]


@entry_point("json", [json.dumps(_NAMES).encode()], share=4)
def name(data, folder):
    """Names of people, as they are taken and printed."""
    told = []
    for text in parsed_texts(data):
        try:
            accepted = valid_name(text)
            assert valid_name(accepted) == accepted and len(plain(accepted, longest=20)) <= 20
            told += [plain(accepted), plain(same_but_for_case(accepted, told) or "")]
        except EdgeError as error:
            told.append(str(error))
        assert ID.fullmatch(slug(text)) and json.loads(json_line(text)) == text
        told += [plain(text), json_line(text)]
    return "\n".join(told)


@entry_point("json", [json.dumps(_NAMES).encode()], share=0.1)
def enrolled_name(data, folder):
    """A name that got into the gallery, in the commands that show it."""
    with Vault(folder / "gallery.db") as vault:
        for number, text in enumerate(parsed_texts(data)):
            try:
                vault.add(text, shots(1, seed=number, model="sface", size=128))
            except EdgeError as error:
                assert "\n" not in str(error)
        names = vault.names()
    home = ("--home", folder)
    shown = say("gallery", "list", *home) + say("gallery", "list", "--json", *home)
    if names:
        shown += say("gallery", "show", names[0], *home) + say("gallery", "rename", names[0], "New", *home)
    shown += say("gallery", "audit", *home)
    return shown + say("gallery", "forget", *parsed_texts(data)[:1], "--yes", *home)


@entry_point("bytes", [b"red\ngreen\nblue\n", "\ufeffrot\r\ngrün\r\n".encode()], share=3)
def labels(data, folder):
    """A file of labels, one a line."""
    (folder / "labels.txt").write_bytes(data)
    return plain(" ".join(read_labels(folder / "labels.txt")))
