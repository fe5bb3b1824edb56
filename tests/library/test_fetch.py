"""Pictures are fetched from a server that answers as Pexels documents it, and from one that misbehaves."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from edge_app.cli import main
from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.library import fetch as fetching
from edge_app.library.fetch import Pexels, Web
from edge_app.library.near import Seen, print_of
from edge_app.system.files import locked

KEY = "563492ad6f91700001000001secret"


def picture(seed, size=(300, 400), quality=90, kind="JPEG"):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return buffer.getvalue()


def bomb():
    """A PNG of 1 kB that claims 40,000 by 40,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9000))) + chunk(b"IEND", b"")
    )


class Service(ThreadingHTTPServer):
    """Photos by number; `answers` are given to searches first, as (status, headers, body)."""

    def __init__(self, photos):
        super().__init__(("127.0.0.1", 0), Handler)
        self.photos, self.answers, self.asked = photos, [], []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        parts = urlsplit(self.path)
        self.server.asked.append((parts.path, dict(self.headers)))
        if self.server.answers:
            return self.say(*self.server.answers.pop(0))
        if parts.path != "/v1/search":
            body = self.server.photos.get(int(parts.path.rpartition("/")[2].partition(".")[0]))
            if isinstance(body, tuple):
                return self.say(*body)
            return self.say(200, {"Content-Type": "image/jpeg"}, body) if body else self.say(404, {}, b"gone")
        if self.headers.get("Authorization") != KEY:
            return self.say(401, {}, b"no")
        asked = {name: one for name, [one] in parse_qs(parts.query).items()}
        page, size = int(asked["page"]), 3
        numbers = sorted(self.server.photos)[(page - 1) * size : page * size]
        more = page * size < len(self.server.photos)
        answer = {
            "total_results": len(self.server.photos),
            "page": page,
            "per_page": size,
            "photos": [self.photo(number) for number in numbers],
        }
        if more:
            answer["next_page"] = f"{self.server.address}/v1/search/?page={page + 1}&per_page={size}&query=x"
        return self.say(
            200, {"Content-Type": "application/json", "X-Ratelimit-Remaining": "9"}, json.dumps(answer).encode()
        )

    def photo(self, number):
        address = f"{self.server.address}/photos/{number}.jpeg"
        return {
            "id": number,
            "width": 400,
            "height": 300,
            "url": f"https://www.pexels.com/photo/{number}/",
            "photographer": f"Ada, {number}",
            "photographer_url": "https://www.pexels.com/@ada",
            "photographer_id": 7,
            "avg_color": "#978E82",
            "src": {"original": address, "large2x": f"{address}?auto=compress", "tiny": address},
            "liked": False,
            "alt": "a mug",
        }

    def say(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    with Service({n: picture(n) for n in range(1, 6)}) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited, without waiting."""
    waited = []
    monkeypatch.setattr(Web.__init__, "__defaults__", (waited.append, lambda: 1_000_000.0))
    return waited


@pytest.fixture
def say(capsys, tmp_path, monkeypatch, service):
    monkeypatch.setenv("EDGE_APP_PEXELS_KEY", KEY)

    def run(*argv, origin="pexels"):
        more = ("--address", service.address) if origin == "pexels" else ()
        words = ("fetch", *argv, "--from", origin, "--into", tmp_path / "out", *more, "--home", tmp_path / "home")
        code = main(list(map(str, words)))
        out, err = capsys.readouterr()
        assert "Traceback" not in err and KEY not in out + err
        log = tmp_path / "home" / "edge-app.log"
        assert not log.exists() or KEY not in log.read_text()
        return code, out, err

    return run


def sources(folder):
    with (folder / "sources.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_pictures_come_with_author_and_licence_and_only_the_service_gets_the_key(say, service, tmp_path):
    code, out, _ = say("red mug", "--json")
    assert code == 0 and json.loads(out)["kept"] == 5
    rows = sources(tmp_path / "out")
    assert [row["author"] for row in rows] == [f"Ada, {n}" for n in range(1, 6)]
    assert rows[0]["licence"].startswith("Pexels License") and rows[0]["page"] == "https://www.pexels.com/photo/1/"
    assert (tmp_path / "out" / "pexels-1.jpg").read_bytes() == service.photos[1]
    assert {path for path, headers in service.asked if "Authorization" in headers} == {"/v1/search"}
    assert len({headers["User-Agent"] for _, headers in service.asked}) == 1
    code, out, _ = say("red mug", "--json")
    assert (code, json.loads(out)["left_out"]) == (1, {"there already": 5})


def test_no_more_than_was_asked_for(say, service, tmp_path):
    assert json.loads(say("mug", "--most", 2, "--json")[1])["kept"] == 2
    assert sum(path == "/v1/search" for path, _ in service.asked) == 1
    assert json.loads(say("mug", "--most", 2, "--json")[1])["kept"] == 2
    assert len(sources(tmp_path / "out")) == 4


def test_duplicates_and_what_is_of_no_use_are_left_out(say, service, tmp_path):
    grey = io.BytesIO()
    Image.new("RGB", (400, 300), (200, 200, 200)).save(grey, "JPEG")
    service.photos = {
        1: picture(1), 2: picture(1), 3: picture(1, quality=60), 4: picture(1, size=(600, 800)),
        5: picture(2, size=(100, 140)), 6: grey.getvalue(), 7: b"<html>not here</html>", 8: bomb(),
        9: picture(9)[:2000], 10: picture(10),
    }  # fmt: skip
    code, out, err = say("mug", "--json")
    told = json.loads(out)
    assert code == 0 and told["kept"] == 2
    assert told["left_out"] == {
        "the same as another": 3, "too small": 1, "flat, or a placeholder": 1, "no picture to be had": 3
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").glob("pexels*")) == ["pexels-1.jpg", "pexels-10.jpg"]
    assert "7.jpeg is no picture" in err and "1600000000 pixels" in err


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry-After": "7"}, [7.0]),
        ({"Retry-After": "Mon, 12 Jan 1970 13:47:00 GMT"}, [20.0]),
        ({"X-Ratelimit-Reset": "1000030"}, [30.0]),
        ({}, [1.0]),
    ],
)
def test_a_busy_server_is_waited_for_as_long_as_it_says(say, service, waits, headers, waited):
    service.answers = [(429, headers, b"")]
    assert say("mug")[0] == 0
    assert waits == waited


@pytest.mark.parametrize("after", ["\xb2", "soon", "-5", "1.5", "Mon, 12 Jan 1970 00:00:00 GMT", "9" * 400])
def test_a_pause_that_says_nothing_or_is_over_is_one_of_our_own(say, service, waits, after):
    service.answers = [(429, {"Retry-After": after}, b"")]
    assert say("mug")[0] == 0
    assert waits == [1.0]


def test_a_server_in_repair_is_waited_for_as_it_says_and_a_month_s_limit_is_no_pause_of_its_errors(say, service, waits):
    service.answers = [(500, {"X-Ratelimit-Reset": "9000000"}, b"")]
    assert say("mug")[0] == 0 and waits == [1.0]
    service.answers = [(503, {"Retry-After": "7200"}, b"")]
    code, _, err = say("mug")
    assert code == 1 and "answers 503 and asks for a pause of 2 hours; run the same command then" in err
    assert waits == [1.0]


def test_what_is_waited_for_is_told(say, service, waits):
    service.answers = [(429, {"Retry-After": "60"}, b"")]
    assert "/v1/search answers 429; it is tried again in 60 s" in say("mug")[2]
    service.answers = [(429, {"Retry-After": "60"}, b"")]
    assert "tried again" not in say("mug", "--quiet")[2]


def test_a_pause_of_an_hour_is_told_not_waited_for(say, service, waits, tmp_path):
    assert json.loads(say("mug", "--most", 1, "--json")[1])["kept"] == 1
    service.answers = [(429, {"Retry-After": "3600"}, b"")]
    code, _, err = say("mug")
    assert code == 1 and "asks for a pause of 60 minutes; run the same command then" in err and waits == []
    assert len(sources(tmp_path / "out")) == 1


def test_errors_of_the_server_are_tried_again_and_then_told(say, service, waits):
    service.answers = [(500, {}, b"oops")] * 2
    assert say("mug")[0] == 0 and waits == [1.0, 2.0]
    service.answers = [(503, {}, b"")] * 4
    code, _, err = say("mug")
    assert code == 1 and "answers 503 again and again" in err


def test_one_rotten_picture_keeps_none_of_the_others_back(say, service, waits):
    service.photos[2], service.photos[4] = (500, {}, b"oops"), (200, {"Content-Type": "text/html"}, b"<html>log in")
    code, out, err = say("mug", "--json")
    assert (code, json.loads(out)["kept"], json.loads(out)["left_out"]) == (0, 3, {"no picture to be had": 2})
    assert "answers 500 again and again" in err and "is no picture" in err
    service.photos[2] = picture(2)
    assert json.loads(say("mug", "--json")[1])["kept"] == 1


@pytest.mark.parametrize(
    ("answer", "asked", "line"),
    [((500, {}, b""), 12, "again and again"), ((429, {"Retry-After": "3600"}, b""), 1, "a pause of 60 minutes")],
)
def test_a_server_that_gives_no_picture_is_left_alone(say, service, waits, answer, asked, line):
    service.photos = dict.fromkeys(range(1, 6), answer)
    code, _, err = say("mug")
    assert code == 1 and line in err.splitlines()[-1] and "run the same command" in err.splitlines()[-1]
    assert sum(path.startswith("/photos") for path, _ in service.asked) == asked


def test_a_dead_server_in_a_list_keeps_none_of_the_others_back(say, service, waits, tmp_path):
    dead = [f"http://127.0.0.1:9/{n}.jpeg" for n in range(6)]
    (tmp_path / "list.txt").write_text("\n".join([*dead, f"{service.address}/photos/1.jpeg"]))
    code, out, err = say("", "--json", origin=tmp_path / "list.txt")
    assert (code, json.loads(out)["kept"], json.loads(out)["left_out"]) == (0, 1, {"no picture to be had": 6})
    assert len(waits) == 9 and "127.0.0.1:9 failed before: http://127.0.0.1:9/3.jpeg was not asked for" in err


def test_what_offers_nothing_is_told(say, service, tmp_path):
    (tmp_path / "list.txt").write_text("\ufeff# nothing yet\n", encoding="utf-8")
    code, out, err = say("zebra", origin=tmp_path / "list.txt")
    assert code == 1 and out.startswith("0 new pictures") and f"{tmp_path / 'list.txt'} has nothing for 'zebra'" in err
    service.photos = {}
    code, _, err = say("zebra")
    assert code == 1 and "pexels has nothing for 'zebra'; try fewer or other words" in err
    (tmp_path / "list.txt").write_bytes(b"PK\0\1\xff\n" * 50)
    code, _, err = say("", origin=tmp_path / "list.txt")
    assert code == 1 and "list.txt is no text; expected an address a line" in err
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("mine")
    code, _, err = say("", origin=tmp_path / "list.txt")
    assert code == 2 and "is a file; expected a folder" in err and (tmp_path / "out").read_text() == "mine"


def test_a_search_that_is_not_there_is_told(say, service):
    service.answers = [(404, {}, b"")]
    code, _, err = say("mug")
    assert code == 1 and "answers 404; expected a list of photos; check the address" in err


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b'{"photos": 3}', b"\xff\xfe", b'{"photos": [' * 5000])
def test_a_page_in_between_is_told(say, service, body):
    service.answers = [(200, {"Content-Type": "text/html"}, body)]
    code, _, err = say("mug")
    assert code == 1 and "answers something else than a list of photos" in err


def test_odd_photos_in_the_list_are_passed_over(say, service):
    odd = [
        None,
        3,
        {},
        {"id": "x", "src": {"large2x": "http://x"}},
        {"id": 1, "src": []},
        {"id": 2, "src": {"original": 5}},
    ]
    service.answers = [(200, {}, json.dumps({"photos": odd}).encode())]
    code, out, _ = say("mug", "--json")
    assert code == 1 and json.loads(out)["kept"] == 0


def photos(service, *addresses, last=False):
    """An answer that offers what lies at these addresses."""
    listed = [{"id": n, "src": {"large2x": one}, "photographer": "Ada"} for n, one in enumerate(addresses, 1)]
    return 200, {}, json.dumps({"photos": listed, "next_page": "" if last else "x"}).encode()


def test_addresses_that_are_none_keep_none_of_the_others_back(say, service, waits, tmp_path):
    odd = ["http://[::1", "x", "file:///etc/passwd", "http://[x]/\x1b[31m"]
    service.answers = [photos(service, *odd, f"{service.address}/photos/5.jpeg", last=True)]
    code, out, err = say("mug", "--json")
    assert (code, json.loads(out)["kept"], json.loads(out)["left_out"]) == (0, 1, {"no picture to be had": 4})
    assert "the address http://[::1 is none" in err and "\x1b" not in err and waits == []
    (tmp_path / "list.txt").write_text(f"http://[::1\n{service.address}/photos/1.jpeg?named=ü b\n")
    code, out, _ = say("", "--json", origin=tmp_path / "list.txt")
    assert (code, json.loads(out)["kept"]) == (0, 1)
    with pytest.raises(UsageError, match="is none"):
        Pexels(KEY, Web(), "http://[::1")


def test_a_service_that_gives_the_same_page_again_and_again_is_asked_twice(say, service):
    page = photos(service, *(f"{service.address}/photos/{n}.jpeg" for n in (1, 2)))
    service.photos = {}
    service.answers = [page, (404, {}, b""), (404, {}, b""), page, page, page]
    code, out, _ = say("mug", "--json")
    assert (code, json.loads(out)["left_out"]) == (1, {"no picture to be had": 2, "there already": 2})
    assert sum(path == "/v1/search" for path, _ in service.asked) == 2


@pytest.mark.parametrize("answer", [(404, {}, b"gone"), (200, {"Content-Type": "image/jpeg"}, b"<html>log in</html>")])
def test_a_service_whose_list_holds_no_picture_is_not_asked_for_ever(say, service, answer):
    service.photos = dict.fromkeys(range(1, 200), answer)
    code, _, err = say("mug")
    assert code == 1 and "of the last 40 pictures that the service lists none can be had" in err.splitlines()[-1]
    assert sum(path.startswith("/photos") for path, _ in service.asked) == 40


def test_a_body_that_breaks_off_is_asked_for_again(say, service, waits):
    cut = (200, {"Content-Type": "image/jpeg", "Content-Length": str(len(picture(1)))}, picture(1)[:2000])
    page = photos(service, f"{service.address}/photos/1.jpeg")
    service.answers = [page, cut, cut]
    code, out, _ = say("mug", "--json", "--most", 1)
    assert (code, json.loads(out)["kept"], waits) == (0, 1, [1.0, 2.0])


def test_what_strangers_write_steers_no_terminal_and_no_spreadsheet(say, service, tmp_path):
    told = {
        '=HYPERLINK("http://x")': '\'=HYPERLINK("http://x")', "@ada": "'@ada", "\t+1": "'+1",
        "\x1b[31mred": "\\x1b[31mred",
        "a\r\nb,c": "a b,c", "\u202eevil": "\\u202eevil", "a\0b": "a\\x00b", "Zoë": "Zoë",
    }  # fmt: skip
    service.photos = {n: picture(n) for n in range(1, len(told) + 1)}
    listed = [
        {"id": n, "src": {"original": f"{service.address}/photos/{n}.jpeg"}, "photographer": one, "url": one}
        for n, one in enumerate(told, 1)
    ]
    service.answers = [(200, {}, json.dumps({"photos": listed}).encode())]
    assert say("mug")[0] == 0
    rows = sources(tmp_path / "out")
    assert [row["author"] for row in rows] == [row["page"] for row in rows] == list(told.values())


def test_a_list_of_sources_with_a_row_that_somebody_spoiled_is_read(tmp_path):
    head = ",".join(fetching._COLUMNS)
    row = "a.jpg,a,Ada,,CC0,,http://x,00"
    (tmp_path / "sources.csv").write_bytes(f"{head}\n{'x' * 200_000}\n{row}\n".encode())
    assert [one["file"] for one in fetching.read_sources(tmp_path)] == ["a.jpg"]


def test_a_key_that_is_refused_or_missing_is_told_without_it(say, service, monkeypatch, tmp_path):
    service.answers = [(401, {}, b"")]
    code, _, err = say("mug")
    assert code == 1 and "it does not take the key" in err
    monkeypatch.delenv("EDGE_APP_PEXELS_KEY")
    assert say("mug")[0] == 2
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert say("mug", "--key-file", tmp_path / "key")[0] == 0


def test_the_key_follows_no_redirect_and_goes_over_no_open_line(say, service):
    service.answers = [(302, {"Location": "http://127.0.0.1:9/v1/search"}, b"")]
    code, _, err = say("mug")
    assert code == 1 and "answers 302" in err
    with pytest.raises(UsageError, match="in the open"):
        Pexels(KEY, Web(), "http://example.com")
    with pytest.raises(UsageError) as error:
        Pexels("a\nb", Web())
    assert "a\nb" not in str(error.value)


def test_more_than_the_limit_is_not_taken(service, monkeypatch):
    with pytest.raises(MediaError, match="sends more than"):
        Web().get(f"{service.address}/photos/1.jpeg", 1000)
    with pytest.raises(MediaError, match="is none"):
        Web().get("file:///etc/passwd", 1000)


def test_a_server_that_is_not_there_is_told(waits):
    with pytest.raises(EdgeError, match="cannot be reached"):
        Web(waits.append).get("http://127.0.0.1:9/x", 1000)
    assert waits == [1.0, 2.0, 4.0]


def test_a_list_of_addresses_and_a_folder_go_the_same_way(say, service, tmp_path):
    rows = [
        f"{service.address}/photos/{n}.jpeg,{who},CC0,{what}" for n, who, what in ((1, "Ada", "mug"), (2, "Bo", "cup"))
    ]
    (tmp_path / "list.csv").write_text("\n".join(["url,author,licence,page", *rows]))
    code, out, err = say("mug", "--json", origin=tmp_path / "list.csv")
    assert code == 0 and json.loads(out)["kept"] == 1 and json.loads(out)["without_licence"] == 0
    [row] = sources(tmp_path / "out")
    assert (row["author"], row["licence"]) == ("Ada", "CC0")
    (tmp_path / "plain.txt").write_text(
        f"# mine\n{service.address}/photos/3.jpeg\n{service.address}/photos/99.jpeg\nftp://x\n"
    )
    code, out, err = say("", "--json", origin=tmp_path / "plain.txt")
    told = json.loads(out)
    assert (code, told["kept"], told["without_licence"]) == (0, 1, 1)
    assert told["left_out"] == {"no picture to be had": 2} and "answers 404" in err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a mug.jpg").write_bytes(picture(40))
    (tmp_path / "mine" / "the same mug.jpg").write_bytes(picture(3, quality=50))
    code, out, _ = say("mug", "--json", origin=tmp_path / "mine")
    assert json.loads(out)["left_out"] == {"the same as another": 1} and json.loads(out)["kept"] == 1
    assert say("mug", origin=tmp_path / "nowhere")[0] == 2


def test_twins_are_found_and_strangers_are_not():
    def pixels(data):
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    seen = Seen((str(n), print_of(pixels(picture(n)))) for n in range(80))
    assert seen.twin(print_of(pixels(picture(7, size=(150, 200), quality=40)))) == "7"
    assert [n for n in range(80, 160) if seen.twin(print_of(pixels(picture(n)))) is not None] == []


def test_a_foreign_sources_file_is_left_alone(tmp_path):
    (tmp_path / "sources.csv").write_text("mine,only\n")
    with pytest.raises(EdgeError, match="is no list of sources"):
        fetching.read_sources(tmp_path)


@pytest.mark.slow
def test_killed_at_any_moment_the_next_call_fetches_what_is_left_and_nothing_twice(tmp_path):
    (tmp_path / "pile").mkdir()
    for number in range(60):
        (tmp_path / "pile" / f"mug {number}.jpg").write_bytes(picture(number))
    environment = {**os.environ, "EDGE_APP_HOME": str(tmp_path / "home")}

    def start(into):
        words = ["fetch", "mug", "--from", "pile", "--into", into, "--most", "60", "--quiet"]
        return subprocess.Popen(
            [sys.executable, "-m", "edge_app", *words], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )

    assert start("whole").wait(600) == 0
    killed = 0
    for fetched in (0, 10, 25, 40, 55):
        process = start("cut")
        while process.poll() is None and len(list((tmp_path / "cut").glob("[!.]*.jpg"))) <= fetched:
            time.sleep(0.001)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
    assert start("cut").wait(600) <= 1
    whole, cut = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name != ".fetch.lock"}
        for name in ("whole", "cut")
    )
    rows = [list(csv.reader(io.StringIO(files.pop("sources.csv").decode()))) for files in (whole, cut)]
    assert killed and len(whole) == 60 and cut == whole
    assert sorted(rows[0]) == sorted(rows[1])


def test_a_picture_whose_row_a_kill_kept_back_gets_it_at_the_next_call(tmp_path, capsys):
    (tmp_path / "pile").mkdir()
    for number in range(3):
        (tmp_path / "pile" / f"mug {number}.jpg").write_bytes(picture(number))
    words = ["fetch", "mug", "--from", str(tmp_path / "pile"), "--into", str(tmp_path / "out"), "--home", str(tmp_path)]
    assert main(words) == 0
    sources = tmp_path / "out" / "sources.csv"
    whole = sources.read_text()
    sources.write_text(whole[: whole.rindex("\n", 0, -1) + 1])
    assert main(words) == 0
    assert sources.read_text() == whole and len(list((tmp_path / "out").glob("[!.]*"))) == 4


def test_one_process_fetches_into_a_folder_and_takes_away_what_a_kill_left(tmp_path, capsys):
    (tmp_path / "pile").mkdir()
    (tmp_path / "pile" / "mug 0.jpg").write_bytes(picture(0))
    out = tmp_path / "out"
    words = ["fetch", "mug", "--from", str(tmp_path / "pile"), "--into", str(out), "--home", str(tmp_path)]
    with locked(out / ".fetch.lock"):
        (out / ".mug-0.jpg.a1b2c3d_.part").write_bytes(b"half")
        assert main(words) == 1 and "another process fetches into" in capsys.readouterr().err
    assert main(words) == 0
    [row] = fetching.read_sources(out)
    assert {path.name for path in out.iterdir()} == {row["file"], "sources.csv", ".fetch.lock"}


def test_a_list_of_sources_that_a_full_disk_left_empty_gets_its_header(tmp_path):
    (tmp_path / "pile").mkdir()
    (tmp_path / "pile" / "mug 0.jpg").write_bytes(picture(0))
    out = tmp_path / "out"
    out.mkdir()
    (out / "sources.csv").touch()
    words = ["fetch", "mug", "--from", str(tmp_path / "pile"), "--into", str(out), "--home", str(tmp_path)]
    assert main(words) == 0 and len(fetching.read_sources(out)) == 1
    assert main(words) == 1  # nothing new, and no complaint about the list


def test_what_a_kill_left_unfinished_is_not_taken_for_a_picture_that_is_there(tmp_path):
    (tmp_path / "pile").mkdir()
    (tmp_path / "pile" / "mug 0.jpg").write_bytes(picture(0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".mug-0.part").write_bytes(picture(0))
    words = ["fetch", "mug", "--from", str(tmp_path / "pile"), "--into", str(tmp_path / "out"), "--home", str(tmp_path)]
    assert main(words) == 0
    [row] = fetching.read_sources(tmp_path / "out")
    assert not row["file"].startswith(".") and (tmp_path / "out" / row["file"]).read_bytes() == picture(0)
