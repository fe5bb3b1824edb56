"""`edge-app bench --classifier`: builds of a classifier beside timm on torch."""

from __future__ import annotations

from edge_app.cli import options, results
from edge_app.cli.parameters import Arguments
from edge_app.core.errors import UsageError
from edge_models.classifier import serving_speed


def classifier(args: Arguments) -> int:
    """One picture by each build and by timm, in turns; then `recognize` from start to end in a fresh process."""
    import os

    from edge_app.bench import recognizer
    from edge_app.system.parallel import cores

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    threads = args.threads or cores()
    try:
        rows = serving_speed.measure(args.classifier, threads, args.rounds)
    except ImportError as error:
        raise UsageError(
            f"{error.name} is not installed", expected="torch and timm", remedy="pip install 'edge-app[train]'"
        ) from error
    process = [{"file": file.name} | serving_speed.process_cost(file) for file in args.classifier]
    result = {"machine": recognizer.machine() | {"threads": threads, "load before": load}, "one picture": rows}
    result |= {"process": process}

    def tell() -> None:
        told = [(row["who"], f"{row['ms']:.2f}", f"{row['times faster']:.2f}" if "met" in row else "") for row in rows]
        columns = ("one picture, in turns", "median ms", "times as fast as timm (3 wanted)")
        options.show(options.table(f"{threads} threads each, load before {load}", columns, told))
        for each in process:
            options.say(f"recognize one.jpg with {each['file']}: {each['recognize_s']:.2f} s, {each['peak_mb']:.0f} MB")

    return results.deliver(args, "classifier.json", result, tell)
