"""MTCNN's three networks, from facenet-pytorch's weights to ONNX.

Input RGB, (x − 127.5) / 128; outputs as facenet-pytorch orders them: box regression, (landmarks,) score.
Zhang et al. 2016, Joint face detection and alignment using multitask cascaded networks (arXiv 1604.02878).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

from edge_export.graph.torch_export import Signature
from edge_export.makers import origins
from edge_export.makers.origins import Origin


@dataclass(frozen=True, slots=True)
class Net:
    """One network of the cascade."""

    id: str
    origin: Origin
    module: type[torch.nn.Module]
    side_px: int | None
    """Side of its square input, None: any size from 12 px."""
    signature: Signature


NETS = (
    Net(
        "mtcnn-pnet",
        origins.PNET,
        PNet,
        None,
        Signature(
            "input",
            ("N", 3, "height", "width"),
            ("boxes", "scores"),
            (("N", 4, "rows", "columns"), ("N", 2, "rows", "columns")),
        ),
    ),
    Net(
        "mtcnn-rnet",
        origins.RNET,
        RNet,
        24,
        Signature("input", ("N", 3, 24, 24), ("boxes", "scores"), (("N", 4), ("N", 2))),
    ),
    Net(
        "mtcnn-onet",
        origins.ONET,
        ONet,
        48,
        Signature("input", ("N", 3, 48, 48), ("boxes", "landmarks", "scores"), (("N", 4), ("N", 10), ("N", 2))),
    ),
)


def load_module(net: Net) -> torch.nn.Module:
    """Build the torch module with the packaged weights, hash checked, in evaluation mode."""
    path = origins.fetch_mtcnn(net.origin)
    module = net.module(pretrained=False)
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return module.eval()
