"""What stands in a kept picture beside its pixels, written by somebody else: one line, never another error."""

import io
import json
import warnings

import pytest
from PIL import Image

from edge_app.core.errors import MediaError
from edge_app.gallery.kept_pictures import kept_picture

FACTS = {"box": [1, 2, 9, 10], "landmarks": [[2, 3], [7, 3], [5, 5], [3, 8], [7, 8]], "score": 0.9, "scale": 0.5}


def picture(comment: bytes) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", comment=comment)
    return file.getvalue()


def test_what_we_write_is_read():
    assert kept_picture(picture(json.dumps(FACTS).encode())).scale == 0.5


@pytest.mark.parametrize(
    "comment",
    [b"[" * 60_000, b"{", b"[]", b"null"]
    + [json.dumps(FACTS | odd).encode() for odd in ({"score": 10**400}, {"box": [1e300, 2, 3, 4]}, {"scale": "x"})],
)
def test_facts_that_are_none_are_one_line(comment):
    with warnings.catch_warnings(), pytest.raises(MediaError, match=r"^a kept picture is damaged") as told:
        warnings.simplefilter("error")
        kept_picture(picture(comment))
    assert "\n" not in str(told.value)
