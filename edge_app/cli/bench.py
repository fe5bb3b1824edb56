"""The command `bench`: what recognition costs on this machine, beside other libraries."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.cli import options, results
from edge_app.cli.parameters import Arguments, Command, Option
from edge_app.core.errors import UsageError
from edge_app.system.files import json_bytes

if TYPE_CHECKING:
    from edge_app.bench.live_loop import LiveBenchOptions
    from edge_app.system.data_folder import Home
    from edge_app.system.settings import Settings


def command() -> Command:
    return Command(
        "bench",
        run,
        example="edge-app bench --peers --peer-python other/bin/python --output bench/",
        params=[
            Option("--rounds", kind=int, default=30, metavar="N", help="turns of each contestant (default 30)"),
            Option("--pictures", kind=int, default=1000, metavar="N", help="size of the folder, 0 to leave it out"),
            Option("--original", kind=Path, metavar="FILE", help="SFace's own ONNX file, to run beside ours"),
            Option("--peers", kind=bool, help="run facenet-pytorch and face_recognition beside ours"),
            Option("--classifier", kind=Path, many=True, metavar="FILE",
                help="measure builds of a classifier beside timm on torch instead"),
            Option("--batches", kind=Path, many=True, metavar="FILE",
                help="measure networks with 1 to 16 pictures a run instead"),
            Option("--gallery", kind=int, metavar="N",
                help="measure a gallery of N templates, of half as many people, instead: open, enroll, list, match"),
            Option("--protected", kind=bool, help="with --gallery: an encrypted one"),
            Option("beside", "--embedder", metavar="ID|FILE", help="time this embedder against the peers as well"),
            Option("--output", kind=Path, metavar="DIR",
                help="write bench.json, bench.md and bench.png there; with --people each clip's answers too, by which "
                "a run that was interrupted goes on"),
            Option("--live", kind=bool, help="measure the live loop instead: cost and tracking"),
            Option("--live-frames", kind=int, default=180, metavar="N", section=_LIVE,
                help="frames of each clip (default 180)"),
            Option("--no-peers", kind=bool, section=_LIVE, help="do not measure other libraries"),
            Option("--peer-python", kind=Path, metavar="PATH", section=_LIVE,
                help="interpreter in which face_recognition is installed"),
            Option("--soak", kind=float, default=0.0, metavar="MIN", section=_LIVE,
                help="then run the loop this many minutes, watching memory"),
            Option("--people", kind=Path, metavar="DIR", section=_LIVE,
                help="measure who is who over time instead, on clips composed from a folder with a sub-folder of "
                "pictures per person, beside every frame afresh and ByteTrack with a vote"),
            Option("--kept-aside", kind=bool, section=_LIVE,
                help="with --people: the half of the people that nothing was tuned on"),
            Option("--checkout", kind=Path, metavar="DIR", section=_LIVE,
                help="with --people: another version's checkout, to run on the same frames"),
            Option("--repeat", kind=int, default=1, metavar="N", section=_LIVE,
                help="with --people: compose every kind of clip this often, with other people (default 1)"),
            Option("--visits", kind=int, default=0, metavar="N", section=_LIVE,
                help="with --people: let N strangers stay for a minute and count who gets a name (default 0)"),
            Option("--precision", kind=("auto", "fp32", "int8"), help="build of the embedder (default auto)"),
            Option("--detector", metavar="NAME", help="yunet, mtcnn, or a YuNet that you added (default yunet)"),
            Option("--threads", kind=int, metavar="N", help="threads for each model (default: one per core)"),
            options.json_flag(),
        ],
    )  # fmt: skip


_LIVE = "Live loop"


def run(args: Arguments) -> int:
    """Measure, print, write."""
    if args.rounds < 1 or args.pictures < 0:
        raise UsageError(f"--rounds {args.rounds}, --pictures {args.pictures}", expected="at least 1, at least 0")
    results.make_folder(args.output)
    if args.live:
        return _live(args)
    if args.classifier:
        from edge_app.cli import training_side

        measure = training_side.find(training_side.MEASUREMENTS, "bench --classifier", "train")
        return int(measure(args))
    if args.batches:
        return _batches(args)
    if args.gallery is not None:
        return _gallery(args)
    from edge_app.bench import recognizer

    home, settings = options.settings(args)
    beside = None if args.beside is None else _embedder_file(home, args.beside, settings)
    chosen = recognizer.BenchOptions(
        settings, args.rounds, args.pictures, args.original, args.peers, args.peer_python, beside
    )
    result = recognizer.run(chosen, lambda part: options.warn(f"measuring {part}"))
    text = markdown(result)
    files: dict[str, results.Content] = {
        "bench.md": f"{text}\n".encode(),
        "bench.png": lambda path: _plot(path, result),
    }
    return results.deliver(args, "bench.json", result, lambda: options.say_lines(text), files)


def _gallery(args: Arguments) -> int:
    """What a gallery of many costs."""
    from edge_app.bench import large_gallery, recognizer

    if not 2 <= args.gallery <= 10_000_000:
        raise UsageError(f"--gallery {args.gallery}", expected="2 to 10,000,000 templates")
    found = large_gallery.measure(args.gallery, args.rounds, options.warn, protected=args.protected)
    result = {"machine": recognizer.machine(), **found}
    return results.deliver(args, "bench.json", result, lambda: options.say_lines("\n".join(large_gallery.lines(found))))


def _batches(args: Arguments) -> int:
    """What several pictures a run save, one network after the other."""
    import os

    from edge_app.bench import batches as batchbench
    from edge_app.bench import recognizer

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rows = batchbench.measure(args.batches, args.rounds)
    result = {"machine": recognizer.machine() | {"load before": load}, "batches": rows}
    told: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        how = f"{row['workers']} at once, {row['threads']} thread{'s' if row['threads'] > 1 else ''} each"
        told.setdefault((row["file"], how), []).append(f"{row['ms']:.1f} ({row['cpu_ms']:.1f})")
    columns = ("network", "runs", *(f"{size} a run" for size in batchbench.SIZES))
    title = f"milliseconds for one picture (of processor time), {args.rounds} rounds, load before {load}"
    table = options.table(title, columns, ((*key, *cells) for key, cells in told.items()))
    return results.deliver(args, "batches.json", result, lambda: options.show(table))


def _embedder_file(home: Home, named: str, settings: Settings) -> Path:
    """The file of an installed embedder, or the file itself."""
    from edge_app.model_store.choose_build import choose

    if named.endswith(".onnx"):
        return Path(named)
    return choose(named, settings.precision, home, settings.threads).entry.path


def _live(args: Arguments) -> int:
    from edge_app.bench import live_loop

    _, settings = options.settings(args)
    if args.people is not None:
        return _identity(args, settings)
    result = live_loop.run(live_options(args, settings), lambda part: options.warn(f"measuring {part}"))
    return results.deliver(args, "live.json", result, lambda: options.say_lines(json_bytes(result).decode().rstrip()))


def _identity(args: Arguments, settings: Settings) -> int:
    """Who is who over time, on clips of the people of a folder."""
    from edge_app.bench import identity

    if args.repeat < 1 or args.visits < 0:
        raise UsageError(f"--repeat {args.repeat}, --visits {args.visits}", expected="at least 1, at least 0")
    if args.checkout is not None and not (args.checkout / "edge_app").is_dir():
        raise UsageError(f"--checkout {args.checkout} holds no edge_app", expected="a checkout of this project")
    chosen = identity.IdentityOptions(
        args.people,
        "kept-aside" if args.kept_aside else "develop",
        settings,
        args.repeat,
        beside=args.checkout,
        visits=args.visits,
        keep=None if args.output is None else args.output / "clips",
    )
    result = identity.run(chosen, lambda part: options.warn(f"measuring {part}"))

    def tell() -> None:
        for title, columns, rows in identity_tables(result):
            options.show(options.table(title, columns, rows))

    return results.deliver(args, "identity.json", result, tell)


def identity_tables(result: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """The figures of `bench --live --people` as tables: title, columns, rows."""
    whos = tuple(result["contestants"])

    def row(what: str, key: str, kind: str = "all") -> tuple[str, ...]:
        cells = []
        for who in whos:
            value = result["contestants"][who][kind].get(key)
            cells.append(
                ""
                if value in (None, {})
                else " / ".join(f"{v:g}" for v in value.values())
                if isinstance(value, dict)
                else f"{value:g}"
            )
        return (what, *cells)  # fmt: skip

    figures = result["contestants"][whos[0]]["all"]
    title = (
        f"{result['clips']} clips of {figures['minutes']:g} minutes, {result['enrolled']} people enrolled, "
        f"{result['half']} half, threshold {result['threshold']}"
    )
    rows = [
        row("IDF1 of the tracks", "idf1_tracks"),
        row("IDF1 of the identities", "idf1_identities"),
        row("switches of the tracks", "switches_tracks"),
        row("wrong name, seconds a minute", "wrong_name_s_per_min"),
        row("one name on two boxes, seconds a minute", "one_name_twice_s_per_min"),
        row(f"visits of the enrolled never named, of {figures['visits_of_known']}", "never_named"),
        row("seconds to the name, 50 / 90 / 95 %", "name_after_s"),
        row(f"old name gone within 2 frames of a cut, of {figures['cuts']}", "old_name_gone_within_2_frames"),
        row(f"new name within 0.4 s of a cut, of {figures['known_after_cuts']}", "new_name_within_0.4_s"),
        row(f"strangers' visits named, of {figures['stranger_visits']}", "strangers_named"),
        row("processor time a frame, ms", "cpu_ms_a_frame"),
    ]
    tables = [(title, ("", *whos), rows)]
    if "visits" in result:
        lengths = tuple(next(iter(result["visits"].values())))
        told = [(who, *(_visited(found[length]) for length in lengths)) for who, found in result["visits"].items()]
        tables.append(("strangers' visits that got a name", ("", *lengths), told))
    return tables


def _visited(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['named']} of {found['visits']} ({low:.2%} to {high:.2%})"


def live_options(args: Arguments, settings: Settings) -> LiveBenchOptions:
    """What --live measures. Raises UsageError for numbers that make no sense."""
    import os

    from edge_app.bench.live_loop import LiveBenchOptions

    if args.live_frames < 30:
        raise UsageError(f"--live-frames is {args.live_frames}", expected="at least 30: a second of video")
    if args.soak < 0:
        raise UsageError(f"--soak is {args.soak}", expected="minutes, or 0")
    if args.peer_python is not None and not os.access(args.peer_python, os.X_OK):
        raise UsageError(f"--peer-python {args.peer_python} cannot be run", expected="a Python interpreter")
    return LiveBenchOptions(settings, args.live_frames, not args.no_peers, args.peer_python, args.soak)


def markdown(result: Mapping[str, Any]) -> str:
    """The figures as tables."""
    machine = result["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads for each model, "
        f"Python {machine['python']}, ONNX Runtime {machine['onnxruntime']}, "
        f"{datetime.date.today().isoformat()}. Embedder: {result['precision']} ({result['why']}).",
        "",
        "| one 640x480 frame with one face | median ms |",
        "| --- | --- |",
        *(f"| {stage} | {ms:.2f} |" for stage, ms in result["stages"].items()),
        "",
        "| in the same run, taking turns | median ms | times ours | target |",
        "| --- | --- | --- | --- |",
        *(_contest_line(row) for row in result["contests"]),
        "",
        "| the rest | measured | target |",
        "| --- | --- | --- |",
        *(f"| {what} | {value} | {target} |" for what, value, target in _rest(result)),
    ]
    lines += [f"\n{peer} was left out: {why}." for peer, why in result["absent"].items()]
    return "\n".join(lines)


def _contest_line(row: Mapping[str, Any]) -> str:
    target = f"{row['target']:g} ({'met' if row['met'] else 'missed'})" if "target" in row else ""
    what = f"{row['what']}, {row['only']} only" if "only" in row else row["what"]
    return f"| {what}: {row['who']} | {row['ms']:.2f} | {row['ratio']:.2f} | {target} |"


def _rest(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    if folder := result.get("folder"):
        told = f"{folder['one worker per s']:.0f} and {folder['all workers per s']:.0f} a second"
        what = f"{folder['pictures']:,} pictures, 1 and {folder['workers']} workers"
        rows.append((what, f"{told}: {folder['gain']:.2f} times", "1.6 times on two cores"))
        rows.append(("the same for hashing: what the machine gave just then", f"{folder['ceiling']:.2f} times", ""))
    gallery, process = result["gallery"], result["process"]
    rows += [
        (f"matching against {gallery['templates']:,} templates", f"{gallery['match_ms']:.1f} ms", "under 10 ms"),
        (f"loading {gallery['templates']:,} templates", f"{gallery['load_s']:.2f} s", "under 1 s"),
        ("`edge-app recognize one.jpg`, process start to end", f"{process['recognize_s']:.2f} s", "under 1.5 s"),
        ("its peak memory", f"{process['peak_mb']:.0f} MB", "under 300 MB"),
        ("`edge-app --help`", f"{process['help_s']:.2f} s", ""),
    ]
    return rows


def _plot(path: Path, result: Mapping[str, Any]) -> None:
    """Draw the contestants' medians as bars."""
    from matplotlib.figure import Figure

    rows = result["contests"]
    figure = Figure(figsize=(9, 0.45 * len(rows) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{row['what']}{' (network)' if 'only' in row else ''}: {row['who']}" for row in rows]
    colours = ["#0072b2" if row["who"] == "edge-app" else "#999999" for row in rows]
    bars = axes.barh(names, [row["ms"] for row in rows], color=colours)
    axes.bar_label(bars, [f" {row['ms']:.1f} ms, {row['ratio']:.1f} x" for row in rows])
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds, median (logarithmic)")
    axes.margins(x=0.25)
    figure.savefig(path, dpi=120)
