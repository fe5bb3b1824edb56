"""Fetches pictures from a stock service, a list of addresses or a folder, with licence and author kept beside them."""

from __future__ import annotations

import email.utils
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import cv2

from edge_app import __version__
from edge_app.core.documents import DocumentError, parse_json
from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.core.names import slug
from edge_app.core.plain_text import plain
from edge_app.core.types import Pixels
from edge_app.library.near import Seen, print_of
from edge_app.media.folders import find_pictures
from edge_app.media.kinds import HEAD_BYTES, kind_of_bytes
from edge_app.media.pictures import picture_of_bytes, read_picture
from edge_app.system.files import (
    append_row,
    csv_cells,
    csv_row,
    is_half_written,
    locked,
    readable_os_errors,
    sha256_of,
    sha256_of_file,
)
from edge_app.system.http import answer_of
from edge_app.system.new_file import write_new
from edge_app.system.timing import back_off_s

PEXELS: Final = "https://api.pexels.com"
SOURCES: Final = "sources.csv"
_LOCK: Final = ".fetch.lock"
_COLUMNS: Final = ("file", "id", "author", "author page", "licence", "page", "address", "sha256")
_LIMIT_BYTES: Final = 64 << 20
_ANSWER_BYTES: Final = 4 << 20
_BOUND_S: Final = 60.0
_TRIES: Final = 4
_STRIKES: Final = 3
_MISSES: Final = 40
"""Pictures in a row that a stock service lists and does not have, after which it is asked no more."""
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_TOLD_S: Final = 2.0
"""A shorter pause is not told."""
_LONGEST_WAIT_S: Final = 90.0
"""A server that wants a longer pause is told to the user instead of waited for."""
_PAGE: Final = 80
"""Most results of one request, as the service documents it."""
_CELL: Final = 2000
"""Characters of a text of somebody else's in a list of sources."""
_FORMULA: Final = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula."""
_IN_ADDRESSES: Final = "%/:=&?~#+!$,;'@()*[]"
_FLAT: Final = 6.0
"""Standard deviation of brightness under which a picture shows nothing: "image not found" on white has 20, a grey card
2."""
_SUFFIXES: Final = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}


@dataclass(frozen=True, slots=True)
class Found:
    """One picture that a source offers."""

    id: str
    address: str
    """Where its bytes are: an address, or a path."""
    author: str = ""
    author_page: str = ""
    licence: str = ""
    page: str = ""
    """Where a person can look at it."""


class Source(Protocol):
    """Where pictures come from."""

    def find(self, query: str) -> Iterator[Found]:
        """What answers the query, best first. Raises EdgeError."""

    def read(self, found: Found) -> bytes:
        """Its bytes. Raises MediaError where there is no picture to be had, EdgeError where nothing can be."""


class _PauseWantedError(EdgeError):
    """A server wants a longer pause than anybody waits for."""


class Web:
    """Requests that wait when a server says so, and give up in words. Sends the key to the service alone."""

    def __init__(
        self,
        sleep: Callable[[float], object] = time.sleep,
        now: Callable[[], float] = time.time,
        *,
        tell: Callable[[str], object] = lambda line: None,
    ) -> None:
        """`tell` gets a line before each longer pause."""
        self._sleep, self._now, self._tell = sleep, now, tell
        self._trusted = ssl.create_default_context()

    def get(self, address: str, limit_bytes: int, key: str | None = None) -> tuple[bytes, str]:
        """The body and its kind ("image/jpeg"), at most `limit_bytes`. With a `key` no redirect is followed.

        Raises MediaError for what is not there or too large, EdgeError for a server that cannot be reached, refuses the
        key, or wants a pause of more than 90 s.
        """
        if _parts(address).scheme not in ("http", "https"):
            raise MediaError(f"the address {address} is none", expected="https:// or http://")
        wanted = "a picture" if key is None else "a list of photos"
        headers = {"User-Agent": f"edge-app/{__version__}"} | ({} if key is None else {"Authorization": key})
        handlers = [urllib.request.HTTPRedirectHandler()] if key is None else []
        shown = address.partition("?")[0]
        for attempt in range(1, _TRIES + 1):
            # Letters beyond ASCII and blanks, as people copy them into lists, are written as the web wants them.
            request = urllib.request.Request(quote(address, safe=_IN_ADDRESSES), headers=headers)
            try:
                with answer_of(request, _BOUND_S, context=self._trusted, handlers=handlers) as answer:
                    body = answer.read(limit_bytes + 1)
                    kind = answer.headers.get_content_type()
                    missing = answer.length or 0
                if len(body) > limit_bytes:
                    raise MediaError(f"{shown} sends more than {limit_bytes >> 20} MiB", expected=wanted)
                if missing:
                    raise OSError(f"it breaks off {missing} bytes before its end")
                return body, kind
            except urllib.error.HTTPError as error:
                error.close()
                self._judge(shown, error, attempt, keyed=key is not None)
            except (OSError, http.client.HTTPException, ValueError) as error:
                if attempt == _TRIES:
                    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise EdgeError(f"{shown} cannot be reached: {why}") from error
                self._pause(shown, "cannot be reached", back_off_s(attempt, 1.0, 8.0))
        raise EdgeError(f"{shown} answers errors alone", remedy="try again later")

    def _judge(self, shown: str, error: urllib.error.HTTPError, attempt: int, *, keyed: bool) -> None:
        """Wait before another try, or say why there is none."""
        if keyed and error.code in (401, 403):
            raise EdgeError(f"{shown} answers {error.code}: it does not take the key", remedy="check the key")
        if keyed and error.code not in (408, 429) and error.code < 500:
            raise EdgeError(f"{shown} answers {error.code}", expected="a list of photos", remedy="check the address")
        if error.code not in (408, 429) and error.code < 500:
            raise MediaError(f"{shown} answers {error.code}", expected="a picture")
        asked_s = self._asked_s(error)
        if asked_s > _LONGEST_WAIT_S:
            raise _PauseWantedError(
                f"{shown} {'has had enough requests; it' if error.code == 429 else f'answers {error.code} and'} asks "
                f"for a pause of {_pause_words(asked_s)}",
                remedy="run the same command then: what came is kept",
            )
        if attempt == _TRIES:
            raise EdgeError(
                f"{shown} answers {error.code} again and again", remedy="run the same command later: what came is kept"
            )
        self._pause(shown, f"answers {error.code}", max(asked_s, back_off_s(attempt, 1.0, 8.0)))

    def _pause(self, shown: str, what: str, seconds: float) -> None:
        if seconds >= _TOLD_S:
            self._tell(f"{shown} {what}; it is tried again in {seconds:.0f} s")
        self._sleep(seconds)

    def _asked_s(self, error: urllib.error.HTTPError) -> float:
        """Seconds to wait by Retry-After (seconds or a date), or X-Ratelimit-Reset (Unix time) where requests were too
        many; 0 where it says nothing that can be understood."""
        after = str(error.headers.get("Retry-After") or "").strip()
        if _SECONDS.fullmatch(after):
            return float(after)
        if after:
            try:
                return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - self._now())
            except (TypeError, ValueError, OverflowError):
                return 0.0
        reset = str(error.headers.get("X-Ratelimit-Reset") or "").strip()
        return max(0.0, float(reset) - self._now()) if error.code == 429 and _SECONDS.fullmatch(reset) else 0.0


def _parts(address: str) -> SplitResult:
    """An address in its parts. Raises MediaError where it has none, as "http://[::1" has."""
    try:
        return urlsplit(address)
    except ValueError as error:
        raise MediaError(f"the address {address} is none", expected="https:// or http://") from error


def _pause_words(seconds: float) -> str:
    for size_s, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size_s or size_s == 60:
            return f"{seconds / size_s:.0f} {name}"
    raise AssertionError("seconds are told as minutes")


class _Pictures:
    """The bytes of pictures. A server that failed three times in a row, or wants a long pause, is asked no more."""

    def __init__(self, web: Web, *, alone: bool) -> None:
        """`alone`: one server has them all, and where it is asked no more there is nothing more to be had."""
        self._web, self._alone, self._failed, self._missed = web, alone, Counter[str](), 0

    def read(self, found: Found) -> bytes:
        """Raises MediaError for this picture alone, EdgeError where no other can be had."""
        server = _parts(found.address).netloc
        if self._failed[server] >= _STRIKES:
            raise MediaError(f"{server} failed before: {found.address.partition('?')[0]} was not asked for")
        try:
            content = self._web.get(found.address, _LIMIT_BYTES)[0]
            if kind_of_bytes(content[:HEAD_BYTES], "") != "picture":
                raise MediaError(f"{found.address.partition('?')[0]} is no picture")
        except MediaError as error:
            self._failed[server] = 0
            self._missed += 1
            if self._alone and self._missed >= _MISSES:
                raise EdgeError(
                    f"of the last {self._missed} pictures that the service lists none can be had: {error.found}",
                    remedy="try other words, or later: what came is kept",
                ) from error
            raise
        except EdgeError as error:
            self._failed[server] += _STRIKES if isinstance(error, _PauseWantedError) else 1
            if self._alone and self._failed[server] >= _STRIKES:
                raise
            raise MediaError(error.found, expected=error.expected) from error
        self._failed[server] = self._missed = 0
        return content


class Pexels:
    """Pexels' photo search, https://www.pexels.com/api/documentation/."""

    def __init__(self, key: str, web: Web, address: str = PEXELS, size: str = "large2x") -> None:
        """Raises UsageError for a key that can be none, and for an address that would send it in the open."""
        if not key.strip() or not key.strip().isascii() or not key.strip().isprintable():
            raise UsageError("the key is empty or holds odd characters", expected="the key that the service gave you")
        try:
            parts = _parts(address)
        except MediaError as error:
            raise UsageError(error.found, expected="https://") from error
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise UsageError(f"{address} would get the key in the open", expected="https://")
        self._key, self._web, self._address, self._size = key.strip(), web, address.rstrip("/"), size
        self._pictures = _Pictures(web, alone=True)

    def find(self, query: str) -> Iterator[Found]:
        page, known = 1, set[str]()
        while True:
            words = urlencode({"query": query, "per_page": _PAGE, "page": page})
            body, _ = self._web.get(f"{self._address}/v1/search?{words}", _ANSWER_BYTES, self._key)
            photos, more = self._photos(body)
            yield from photos
            # A service that gives the same pages again and again would be asked for ever.
            if not more or known.issuperset(one.id for one in photos):
                return
            known.update(one.id for one in photos)
            page += 1

    def read(self, found: Found) -> bytes:
        return self._pictures.read(found)

    def _photos(self, body: bytes) -> tuple[list[Found], bool]:
        """The photos of one page, and whether there is another. Raises EdgeError for another answer."""
        try:
            answer = parse_json(body, most_bytes=_ANSWER_BYTES)
        except DocumentError as error:
            raise self._unlike() from error
        if not isinstance(answer, dict) or not isinstance(answer.get("photos"), list):
            raise self._unlike()
        found = []
        for photo in answer["photos"]:
            sizes = photo.get("src") if isinstance(photo, dict) else None
            address = sizes.get(self._size) or sizes.get("original") if isinstance(sizes, dict) else None
            if not isinstance(address, str) or type(photo.get("id")) is not int:
                continue
            texts = {name: photo[name] if isinstance(photo.get(name), str) else "" for name in
                     ("photographer", "photographer_url", "url")}  # fmt: skip
            licence = "Pexels License, https://www.pexels.com/license/"
            author, author_page, page = texts.values()
            found.append(Found(f"pexels-{photo['id']}", address, author, author_page, licence, page))
        return found, bool(answer.get("next_page"))

    def _unlike(self) -> EdgeError:
        return EdgeError(
            f"{self._address} answers something else than a list of photos", expected="JSON in the documented form",
            remedy="a page for people may stand in between: check the network",
        )  # fmt: skip


class AddressList:
    """A text file with an address a line, or a CSV with the columns url, author, licence, page."""

    def __init__(self, path: Path, web: Web) -> None:
        self._path, self._pictures = path, _Pictures(web, alone=False)

    def find(self, query: str) -> Iterator[Found]:
        """The addresses whose line has every word of the query."""
        with readable_os_errors(self._path.parent):
            content = self._path.read_bytes()
        if b"\0" in content:
            raise EdgeError(f"{self._path} is no text", expected="an address a line, or a CSV with the column url")
        text = content.decode("utf-8-sig", "replace")
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        table = bool(lines) and "url" in [cell.strip().lower() for cell in lines[0].split(",")]
        header = [cell.strip().lower() for cell in lines.pop(0).split(",")] if table else ["url"]
        for line in lines:
            cells = csv_cells(line) if table else [line.strip()]
            row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
            if row.get("url") and _has_words(line, query):
                name = slug(Path(row["url"].partition("?")[0].partition("#")[0]).stem)[:40]
                identity = f"{name}-{sha256_of(row['url'])[:8]}"
                yield Found(
                    identity, row["url"], row.get("author", ""), "", row.get("licence", ""), row.get("page", "")
                )

    def read(self, found: Found) -> bytes:
        return self._pictures.read(found)


class Folder:
    """Pictures that lie in a folder already; their licences are read from a sources.csv in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, query: str) -> Iterator[Found]:
        """The pictures whose path has every word of the query."""
        known = {row["file"]: row for row in read_sources(self._folder)}
        for path in find_pictures(self._folder, recursive=True):
            name = path.relative_to(self._folder).as_posix()
            if _has_words(name, query):
                row = known.get(name, {})
                texts = (row.get(one, "") for one in ("author", "author page", "licence", "page"))
                yield Found(slug(path.stem)[:48] + f"-{sha256_of(name)[:8]}", str(path), *texts)

    def read(self, found: Found) -> bytes:
        try:
            with Path(found.address).open("rb") as stream:
                content = stream.read(_LIMIT_BYTES + 1)
        except OSError as error:
            raise MediaError(f"{found.address} cannot be read: {error.strerror}") from error
        if len(content) > _LIMIT_BYTES:
            raise MediaError(f"{found.address} has more than {_LIMIT_BYTES >> 20} MiB", expected="a picture")
        return content


def _has_words(text: str, query: str) -> bool:
    return all(word in text.casefold() for word in query.casefold().split())


@dataclass(slots=True)
class Fetched:
    """What a run has come to."""

    offered: int = 0
    """What the source was heard to have."""
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """By reason."""
    without_licence: int = 0
    problems: list[str] = field(default_factory=list)


def fetch(
    source: Source,
    query: str,
    into: Path,
    most: int,
    least_px: int,
    advance: Callable[[], object] = lambda: None,
) -> Fetched:
    """Bring up to `most` new pictures into a folder, each noted in its sources.csv before it is counted.

    Left out: what is there already, by id, content or looks; what is no whole picture, smaller than `least_px`, flat.
    Raises EdgeError where the source or the folder cannot be used, or another process fetches into it; what came stays.
    """
    done = Fetched()
    with locked(into / _LOCK, wait=False) as mine, readable_os_errors(into):
        if not mine:
            raise EdgeError(f"another process fetches into {into}", remedy="wait for it, or name another folder")
        rows = read_sources(into)
        ids, hashes, seen = {row["id"] for row in rows}, {row["sha256"] for row in rows}, Seen()
        noted, unnoted = {row["file"] for row in rows}, dict[str, str]()
        for path in sorted(into.iterdir()):
            if is_half_written(path):
                path.unlink()
            # What is hidden is neither a picture that is there nor one that lacks its row.
            elif path.is_file() and path.name != SOURCES and not path.name.startswith("."):
                if path.name not in noted:
                    unnoted[sha256_of_file(path)] = path.name
                try:
                    seen.add(path.name, print_of(read_picture(path, max_px=256)))
                except MediaError:
                    continue
        for found in source.find(query):
            if done.kept >= most:
                break
            done.offered += 1
            if found.id in ids:
                done.left_out["there already"] += 1
                continue
            ids.add(found.id)
            try:
                content = source.read(found)
                why, pixels = _judged(content, found, least_px)
            except MediaError as error:
                done.left_out["no picture to be had"] += 1
                done.problems.append(str(error))
                continue
            digest = sha256_of(content)
            look = print_of(pixels)
            # A kill fell between this picture and its row: it lacks its author and licence still.
            name = unnoted.pop(digest, None) if not why else None
            if name is None and not why and (digest in hashes or seen.twin(look) is not None):
                why = "the same as another"
            if why:
                done.left_out[why] += 1
                continue
            if name is None:
                name = write_new(into / f"{found.id}{_suffix(content)}", partial(_fill, content), suffix=".part").name
                seen.add(name, look)
            _note(into / SOURCES, found, name, digest)
            hashes.add(digest)
            done.kept += 1
            done.without_licence += not found.licence
            advance()
    return done


def _judged(content: bytes, found: Found, least_px: int) -> tuple[str, Pixels]:
    """Why a picture is of no use, "" where it is of some. Raises MediaError for what is no whole picture, or a bomb."""
    if kind_of_bytes(content[:HEAD_BYTES], "") != "picture":
        raise MediaError(f"{found.address.partition('?')[0]} is no picture")
    picture = picture_of_bytes(content, found.address.partition("?")[0], max_px=1024)
    if min(picture.original_size_px) < least_px:
        return "too small", picture.pixels
    grey = cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY)
    return ("flat, or a placeholder" if float(grey.std()) < _FLAT else ""), picture.pixels


def _fill(content: bytes, scratch: Path) -> None:
    scratch.write_bytes(content)


def _suffix(content: bytes) -> str:
    return next((suffix for head, suffix in _SUFFIXES.items() if content.startswith(head)), ".img")


def _note(path: Path, found: Found, file: str, digest: str) -> None:
    """Append one row; the file is there before its row, and gets it at the next call where a kill fell between."""
    strange = (found.author, found.author_page, found.licence, found.page, found.address)
    append_row(path, _row((file, found.id, *map(_cell, strange), digest)), _row(_COLUMNS))


def _cell(text: str) -> str:
    """Somebody else's text in one cell: nothing in it steers a terminal, and no spreadsheet takes it for a formula."""
    told = plain(" ".join(text.split()), longest=_CELL)
    return f"'{told}" if told.startswith(_FORMULA) else told


def _row(cells: Iterable[str]) -> bytes:
    return csv_row(cells).encode("utf-8", "replace")


def read_sources(folder: Path) -> Sequence[Mapping[str, str]]:
    """The rows of a folder's sources.csv; none where there is none."""
    try:
        text = (folder / SOURCES).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return []
    if not text:
        return []
    rows = [row for line in text.splitlines() if (row := csv_cells(line))]
    if not rows or tuple(rows[0]) != _COLUMNS:
        raise EdgeError(f"{folder / SOURCES} is no list of sources", expected="another folder, or that file moved away")
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows[1:] if len(row) == len(_COLUMNS)]
