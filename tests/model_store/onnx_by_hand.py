"""ONNX files written byte by byte: hostile ones that no library would write, and small honest ones."""

import struct

from edge_app.model_store.protobuf import chunk

FLOAT, INT64 = 1, 7


def number(field, value):
    out, value = bytearray([field << 3]), value & (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def text(field, value):
    return chunk(field, value.encode())


def tensor(name, dims, raw=None, kind=FLOAT, extra=b""):
    body = b"".join(number(1, extent) for extent in dims) + number(2, kind) + text(8, name)
    return body + (b"" if raw is None else chunk(9, raw)) + extra


def floats(name, dims, values):
    return tensor(name, dims, struct.pack(f"<{len(values)}f", *values))


def external(name, dims, location):
    return tensor(name, dims, extra=chunk(13, text(1, "location") + text(2, location)) + number(14, 1))


def node(kind, inputs, outputs, domain="", attributes=()):
    body = b"".join(text(1, one) for one in inputs) + b"".join(text(2, one) for one in outputs) + text(4, kind)
    return body + b"".join(chunk(5, one) for one in attributes) + text(7, domain)


def port(name, shape, kind=FLOAT):
    dims = b"".join(chunk(1, number(1, d) if isinstance(d, int) else text(2, d)) for d in shape)
    return text(1, name) + chunk(2, chunk(1, number(1, kind) + chunk(2, dims)))


def graph(nodes, tensors=(), inputs=(), outputs=()):
    groups = ((1, nodes), (5, tensors), (11, inputs), (12, outputs))
    return b"".join(chunk(field, one) for field, group in groups for one in group) + text(2, "by hand")


def model(body, metadata=(), opset=17):
    entries = b"".join(chunk(14, text(1, key) + text(2, value)) for key, value in metadata)
    return number(1, 8) + chunk(8, text(1, "") + number(2, opset)) + chunk(7, body) + entries


def network(tensors=(), nodes=(), shape=("N", 3, 32, 32), metadata=()):
    """A network whose output is its input, and whatever else is put into the graph."""
    body = graph(
        [node("Identity", ["input"], ["output"]), *nodes], tensors, [port("input", shape)], [port("output", shape)]
    )
    return model(body, metadata)


def colour_classifier(classes=3, side=32, weights=None):
    """Logits that are weighted mean colours: (N, 3, side, side) -> (N, classes)."""
    rows = weights or [float((3 * c + k) % 4 - 1.5) for c in range(classes) for k in range(3)]
    axes = tensor("flat", [2], struct.pack("<2q", 0, -1), INT64)
    matrix = [rows[c * 3 + k] for k in range(3) for c in range(classes)]
    body = graph(
        [
            node("GlobalAveragePool", ["input"], ["pooled"]),
            node("Reshape", ["pooled", "flat"], ["row"]),
            node("MatMul", ["row", "weights"], ["logits"]),
        ],
        [axes, floats("weights", [3, classes], matrix)],
        [port("input", ("N", 3, side, side))],
        [port("logits", ("N", classes))],
    )
    return model(body)
