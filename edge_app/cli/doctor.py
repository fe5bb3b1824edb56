"""The command `doctor`: is everything well on this machine, and if not, what to do."""

from __future__ import annotations

import contextlib
import platform
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from edge_app.cli import options
from edge_app.cli.parameters import Arguments, Command
from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError

_FLAGS: Final = ("avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp")
"""Processor features that decide how fast the networks run."""


def command() -> Command:
    return Command("doctor", run, example="edge-app doctor", params=[options.json_flag()])


_MARKS: Final = {"well": ("ok  ", "green"), "note": ("note", "yellow"), "ill": ("ILL ", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    what: str
    state: Literal["well", "note", "ill"]
    found: str
    remedy: str = ""


def run(args: Arguments) -> int:
    """Print what was found; 1 when something is ill."""
    found = [finding for check in _CHECKS for finding in _guarded(check, args)]
    if args.json:
        from dataclasses import asdict

        options.print_json({"findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            mark = options.Coloured(*_MARKS[finding.state])
            options.say(mark, f" {finding.what}: {finding.found}", f"; {finding.remedy}" if finding.remedy else "")
    return 1 if any(finding.state == "ill" for finding in found) else 0


Check = Callable[[Arguments], Iterator[Finding]]


def _guarded(check: Check, args: Arguments) -> list[Finding]:
    try:
        return list(check(args))
    except EdgeError as error:
        return [Finding(check.__name__.strip("_").replace("_", " "), "ill", error.found, error.remedy)]


def _python(_: Arguments) -> Iterator[Finding]:
    version = platform.python_version()
    well = sys.version_info >= (3, 11)
    yield Finding("Python", "well" if well else "ill", version, "" if well else "install Python 3.11 or newer")


def _processor(_: Arguments) -> Iterator[Finding]:
    from edge_app.model_store.choose_build import processor
    from edge_app.system.parallel import cores

    words = set(processor().split())
    flags = [flag for flag in _FLAGS if flag in words]
    slow = platform.machine() in ("x86_64", "AMD64") and words and "avx2" not in words and sys.platform == "linux"
    yield Finding(
        "processor",
        "note" if slow else "well",
        f"{platform.machine()}, {cores()} cores, {', '.join(flags) or 'features not told by the system'}",
        "without AVX2 recognition is several times slower" if slow else "",
    )


def _runtime(_: Arguments) -> Iterator[Finding]:
    import cv2

    from edge_app.inference import onnx_model

    yield Finding(
        "ONNX Runtime", "well", f"{onnx_model.version()}, {', '.join(onnx_model.providers())}; runs on the CPU"
    )
    yield Finding("OpenCV", "well", cv2.__version__)


def _cameras(_: Arguments) -> Iterator[Finding]:
    from edge_app.media.cameras import list_cameras

    cameras = list_cameras(check=True)
    if not cameras:
        yield Finding("cameras", "note", "none", "plug one in; pictures, videos and streams work without")
    for camera in cameras:
        state: Literal["well", "ill"] = "ill" if camera.problem else "well"
        yield Finding(
            "camera", state, f"{camera.spec}: {camera.name}" + (f", {camera.problem}" if camera.problem else "")
        )


def _data_folder(args: Arguments) -> Iterator[Finding]:
    from edge_app.system.data_folder import Home

    home = Home.locate(args.home)
    exists = home.path.exists()
    yield Finding("data folder", "well", f"{home.path}" + ("" if exists else ", made at the first enrollment"))
    settings = home.settings()
    unknown = home.unknown_settings()
    if unknown:
        yield Finding("settings", "note", f"unknown: {', '.join(unknown)}", "mistyped, or of a newer version")
    else:
        yield Finding("settings", "well", f"fpir {settings.fpir}, margin {settings.margin}, {settings.precision}")
    exposed = home.exposed()
    if exposed:
        more = f" and {len(exposed) - 1} more" if len(exposed) > 1 else ""
        yield Finding("permissions", "ill", f"others may open {exposed[0]}{more}", f"chmod -R go= '{home.path}'")
    elif exists:
        yield Finding("permissions", "well", "private to you")


def _gallery(args: Arguments) -> Iterator[Finding]:
    from edge_app.gallery.calibration import thresholds_of
    from edge_app.gallery.matching import Gallery
    from edge_app.gallery.storage import Vault
    from edge_app.model_store.catalogue import builds, open_entry
    from edge_app.system.data_folder import Home

    home = Home.locate(args.home)
    with Vault(home.gallery_path) as vault:
        vault.verify()
        people, models = vault.count(), vault.models()
    told = ", ".join(f"{counted(count, 'template')} of {model}" for model, count in models.items())
    yield Finding("gallery", "well", counted(people, "person", "people") + (f", {told}" if told else ""))
    with contextlib.suppress(EdgeError):  # a model that cannot be opened is told among the models
        settings = home.settings()
        entry = builds(home, settings.embedder)[0]
        card = open_entry(entry, threads=1).card
        known = thresholds_of(home, card, entry.sha256)
        with Vault(home.gallery_path) as vault:
            gallery = Gallery.of_means(vault.read(card.id))
        rule = gallery.rule(known.points, settings.fpir, settings.margin, known.cohort)
        if len(gallery) and rule.unpromised:
            yield Finding("threshold", "note", rule.unpromised)


def _models(args: Arguments) -> Iterator[Finding]:
    from edge_app.model_store import catalogue, shipped
    from edge_app.system.data_folder import Home

    home, entries = Home.locate(args.home), list(shipped.entries())
    try:
        entries += catalogue.installed(home)
    except EdgeError as error:
        yield Finding("models", "ill", error.found, error.remedy)
    else:
        settings = home.settings()
        ids = {entry.id for entry in entries} | {"mtcnn", "faces"}
        for name in ("embedder", "detector", "model"):
            if getattr(settings, name) not in ids:
                found = f"the settings name {getattr(settings, name)!r}, which is not installed"
                yield Finding(name, "ill", found, "`edge-app models list` shows what is")
    for entry in entries:
        try:
            card = catalogue.open_entry(entry, threads=1).card
            yield Finding("model", "well", f"{entry.id} {entry.precision}, {card.licence}")
        except EdgeError as error:
            yield Finding("model", "ill", error.found, error.remedy)


def _fleet(args: Arguments) -> Iterator[Finding]:
    from edge_app.fleet.connection import load
    from edge_app.fleet.server import Away, Server
    from edge_app.fleet.sync import Fleet
    from edge_app.gallery.storage import Vault
    from edge_app.system.data_folder import Home

    with Vault(Home.locate(args.home).gallery_path) as vault:
        here = load(vault)
        if here is None:
            return
        asked_s = time.time()
        try:
            with Server(here.address) as server:
                version, vector = server.version()
                ends = server.certificate_ends()
                yield Finding("server", "well", f"PostgreSQL {version} at {here.address.shown}")
                found = "not installed, and not needed" if vector is None else vector
                yield Finding("pgvector", "well", found)
                if ends is None:
                    yield Finding("certificate", "well", "none, for the server is on this machine")
                else:
                    left_days = (ssl.cert_time_to_seconds(ends) - time.time()) / 86_400
                    remedy = "" if left_days > 14 else "let the administrator renew it"
                    yield Finding("certificate", "note" if remedy else "well", f"valid until {ends}", remedy)
                head = Fleet(vault, server).head()
        except Away as error:
            yield Finding("server", "note", str(error), "doors go on alone with what they know")
            return
    off_s = head.clock_s - (asked_s + time.time()) / 2
    clocks = f"{abs(off_s):.0f} s {'ahead' if off_s > 0 else 'behind'}"
    remedy = "" if abs(off_s) < 60 else "set the clocks; which change stands does not depend on them"
    yield Finding("server's clock", "note" if remedy else "well", clocks, remedy)
    behind = head.revision - here.cursor
    yield Finding("shared gallery", "note" if behind else "well", f"{counted(behind, 'change')} behind",
        "edge-app gallery pull" if behind else "")  # fmt: skip


_CHECKS: Final[tuple[Check, ...]] = (_python, _processor, _runtime, _cameras, _data_folder, _gallery, _fleet, _models)
