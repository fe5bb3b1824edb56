"""What a gallery of many people costs: opening, enrolling, forgetting, a page of the list, one match, memory."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_app.core.types import Embedding, Float32s, Quality, Template
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.gallery.people import KeptShot, Person
from edge_app.gallery.records import Facts
from edge_app.gallery.storage import Vault
from edge_app.system.timing import medians

MODEL: Final = "bench"
SIZE: Final = 128
_AT_ONCE: Final = 20_000
"""People enrolled in one transaction while the gallery is made."""
_NOTHING_MEASURED: Final = Quality(100.0, 0.5, 120.0, 0.0, 0.1, 0.0, 0.0, 0.9)


def measure(templates: int, rounds: int, report: Callable[[str], None], *, protected: bool) -> dict[str, Any]:
    """Make a gallery of random people with two templates each, measure it, and compare others on its vectors.

    Times are medians of `rounds` in seconds, memory is that of this process: run it afresh for every size.
    """
    with tempfile.TemporaryDirectory(prefix="edge-app-gallery-") as folder:
        path = Path(folder) / "gallery.db"
        people = max(1, templates // 2)
        report(f"making a gallery of {people:,} people")
        begun = time.perf_counter()
        with Vault(path) as vault:
            if protected:
                vault.protect("file")
            fill(vault, people)
        made_s = time.perf_counter() - begun
        before = _resident_bytes()
        report("opening it")
        figures = _own(path, people, rounds)
        memory = _resident_bytes() - before
        peak = _peak_bytes()
        report("comparing")
        with Vault(path) as vault:
            others = compare(vault.read(MODEL).means, rounds)
        size = path.stat().st_size
    known = {"templates": 2 * people, "people": people, "protected": protected, "rounds": rounds}
    return known | {
        "made_s": made_s,
        "file_bytes": size,
        "memory_bytes": memory,
        "peak_bytes": peak,
        **figures,
        **others,
    }


def fill(vault: Vault, people: int) -> None:
    """Enroll random people by the numbers in their names."""
    rng = np.random.default_rng(1)
    for start in range(0, people, _AT_ONCE):
        with vault.transaction():
            for number in range(start, min(start + _AT_ONCE, people)):
                vault.restore(_person(rng, f"person {number * 7919 % people:07d}"))


def _person(rng: np.random.Generator, name: str) -> Person:
    own = rng.standard_normal(SIZE, np.float32)
    shots = []
    for _ in range(2):
        looks = own + 0.7 * rng.standard_normal(SIZE, np.float32)
        embedding = Embedding(looks / np.linalg.norm(looks), MODEL)
        shots.append(KeptShot(Template(embedding, _NOTHING_MEASURED, "bench", 1.7e9), None))
    return Person(name, Facts(), tuple(shots))


def _own(path: Path, people: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    rule = MatchRule(0.4, 0.05, 0.01, 0.01, "")
    times: dict[str, list[float]] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        found = work()
        times.setdefault(what, []).append(time.perf_counter() - begun)
        return found

    def opened() -> tuple[Vault, Gallery]:
        vault = Vault(path)
        return vault, Gallery.of_means(vault.read(MODEL))

    for turn in range(rounds):
        vault, gallery = timed("open_s", opened)
        with vault:
            look = _person(rng, "somebody").shots[0].template.embedding
            timed("first_match_s", lambda: gallery.match([look], rule))  # noqa: B023
            for probe in _probes(rng, people, gallery):
                timed("match_s", lambda: gallery.match([probe], rule))  # noqa: B023
            new = _person(rng, f"new {turn}")
            timed("enroll_s", lambda: vault.restore(new))  # noqa: B023
            timed("forget_s", lambda: vault.forget(new.name))  # noqa: B023
            after = f"person {int(rng.integers(people)):07d}"
            timed("page_s", lambda: vault.page(after, 100))  # noqa: B023
    return medians(times)


def _probes(rng: np.random.Generator, people: int, gallery: Gallery) -> list[Embedding]:
    """As many strangers as looks of people enrolled."""
    known = [gallery.mean(int(at)) for at in rng.integers(people, size=5)]
    noise = rng.standard_normal((10, SIZE), np.float32)
    looks = [one + 0.05 * other for one, other in zip(known, noise[:5], strict=True)] + list(noise[5:])
    return [Embedding(look / np.linalg.norm(look), MODEL) for look in looks]


def compare(means: Float32s, rounds: int) -> dict[str, Any]:
    """The median time of one search for the two nearest, and whether they are the exact ones: ours and others'."""
    rng = np.random.default_rng(3)
    count = max(20, rounds)
    looks = means[rng.integers(len(means), size=count)] + 0.06 * rng.standard_normal(
        (count, means.shape[1]), np.float32
    )
    probes = np.asarray(looks / np.linalg.norm(looks, axis=1, keepdims=True), np.float32)
    names = [str(at) for at in range(len(means))]
    gallery = Gallery(MODEL, names, means, np.arange(len(means)))
    anybody = MatchRule(-2.0, 0.0, 0.01, 0.01, "")
    searches: dict[str, Callable[[Float32s], int]] = {
        "ours": lambda probe: int(gallery.match([Embedding(probe, MODEL)], anybody)[0].name or -1),
        "numpy": lambda probe: int((means @ probe).argmax()),
        **_faiss(means),
    }
    exact = [int((means.astype(np.float64) @ probe).argmax()) for probe in probes[:20]]
    found: dict[str, Any] = {}
    times: dict[str, list[float]] = {name: [] for name in searches}
    for search in searches.values():
        search(probes[0])
    for probe in probes:  # in turns, so that all share what else the machine does
        for name, search in searches.items():
            begun, cpu = time.perf_counter(), time.process_time()
            search(probe)
            times[name].append(time.perf_counter() - begun)
            times.setdefault(f"{name} (processor)", []).append(time.process_time() - cpu)
    for name, search in searches.items():
        right = sum(search(probe) == wanted for probe, wanted in zip(probes[:20], exact, strict=True))
        found[name] = {"first_of_20_right": right}
    return {"search_s": medians(times), "searches": found}


def _faiss(means: Float32s) -> dict[str, Callable[[Float32s], int]]:
    """FAISS's exact index and its 8 bits, where it is installed."""
    try:
        import faiss  # type: ignore[import-not-found]
    except ImportError:
        return {}
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(means.shape[1])
    bits = faiss.IndexScalarQuantizer(means.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    bits.train(means[:50_000])
    for index in (flat, bits):
        index.add(means)
    return {"FAISS flat": lambda probe: int(flat.search(probe[None], 2)[1][0, 0]),
            "FAISS 8 bits": lambda probe: int(bits.search(probe[None], 2)[1][0, 0])}  # fmt: skip


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return _peak_bytes()
    return pages * resource.getpagesize()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def lines(result: dict[str, Any]) -> Sequence[str]:
    """What was measured, for people."""
    at = result["templates"]
    told = [
        f"{at:,} templates of {result['people']:,} people{', encrypted' if result['protected'] else ''}, "
        f"{result['file_bytes'] / 1e6:,.0f} MB on disk",
        f"open {result['open_s']:.3f} s, enroll {result['enroll_s']:.3f} s, forget {result['forget_s']:.3f} s, "
        f"a page of 100 {result['page_s']:.3f} s",
        f"first match {1000 * result['first_match_s']:.0f} ms, one match {1000 * result['match_s']:.1f} ms; "
        f"memory {result['memory_bytes'] / 1e6:,.0f} MB more, {result['peak_bytes'] / 1e6:,.0f} MB at most",
    ]
    for name, one in result["searches"].items():
        cpu = result["search_s"][f"{name} (processor)"]
        told.append(
            f"{name}: {1000 * result['search_s'][name]:.1f} ms a search, {1000 * cpu:.1f} ms of processor, "
            f"{one['first_of_20_right']} of 20 right"
        )
    return told
