"""Those who enter `edge-app train contest`, each in a process of its own: `python -m ... WHO TASK.json ANSWER.json`.

A task holds `learn` (pairs of path and class number), `judge` (paths), `classes` (names), `seed`, `search` (minutes),
`scratch` (an empty folder). An answer holds the class number given to each picture that judges.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Task = Mapping[str, Any]
LENT: Final = "EDGE_APP_LENT_PATH"
"""Environment variable: folders where this module's own environment keeps its packages."""
EPOCHS: Final = 8
"""Of fastai's fine_tune, after its one with the base frozen."""


def borrow() -> None:
    """Let the interpreter of another environment import what ours lends it; what it has of its own goes before."""
    sys.path += filter(None, os.environ.get(LENT, "").split(os.pathsep))


def ours(task: Task) -> list[int]:
    """`edge-app train classifier` with its defaults."""
    from edge_models.classifier.network import load_classifier, predict
    from edge_models.classifier.options import ClassifierOptions
    from edge_models.classifier.run import train_classifier
    from edge_models.fitting.progress import Silence

    pictures = Path(task["scratch"]) / "pictures"
    for number, (path, label) in enumerate(task["learn"]):
        # A number in front: pictures of several folders may be called alike.
        link = pictures / task["classes"][label] / f"{number}{Path(path).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    options = ClassifierOptions(
        pictures, Path(task["scratch"]) / "run", seed=task["seed"], search=task["search"], log="none", device="cpu"
    )
    model, checkpoint = load_classifier(train_classifier(options, Silence()).checkpoint)
    found = predict(model, [Path(path) for path in task["judge"]]).argmax(axis=1)
    return [list(task["classes"]).index(checkpoint.classes[number]) for number in found]


def logistic(task: Task, network: str) -> list[int]:
    """Features of timm's network, and scikit-learn's logistic regression as it comes."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from timm.data import create_transform  # type: ignore[attr-defined]

    body, side, centre = _pretrained(network)
    see = create_transform(side, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=centre, interpolation="bicubic")

    def features(paths: Sequence[str]) -> Any:
        rows = []
        with torch.inference_mode():
            for start in range(0, len(paths), 16):
                batch = torch.stack([see(_opened(path)) for path in paths[start : start + 16]])
                rows.append(body(batch))
        return torch.cat(rows).numpy()

    fitted = LogisticRegression(max_iter=1000).fit(
        features([path for path, _ in task["learn"]]), [label for _, label in task["learn"]]
    )
    return [int(number) for number in fitted.predict(features(task["judge"]))]


def fastai(task: Task) -> list[int]:
    """The `fine_tune` of fastai on the same Lite0, with its own transforms, head and rates."""
    import torch
    from fastai.vision.all import (  # type: ignore[import-not-found]
        ImageDataLoaders,
        Learner,
        Normalize,
        Resize,
        accuracy,
        aug_transforms,
        create_head,
        params,
        set_seed,
    )

    set_seed(task["seed"])
    body, side, _ = _pretrained("efficientnet-lite0")
    maps = torch.nn.Sequential(
        *[part for name, part in body.named_children() if name not in ("global_pool", "classifier")]
    )
    model = torch.nn.Sequential(maps, create_head(1280, len(task["classes"])))
    labels = dict(map(tuple, task["learn"]))
    loaders = ImageDataLoaders.from_lists(
        "/", [path for path, _ in task["learn"]], [task["classes"][labels[path]] for path, _ in task["learn"]],
        valid_pct=0.1, seed=task["seed"], item_tfms=Resize(side + 32), bs=min(32, max(2, len(labels) // 4)),
        batch_tfms=[*aug_transforms(size=side), Normalize.from_stats([0.5] * 3, [0.5] * 3)], num_workers=0,
    )  # fmt: skip
    learner = Learner(loaders, model, splitter=lambda m: [params(m[0]), params(m[1])], metrics=accuracy,
                      path=task["scratch"])  # fmt: skip
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(EPOCHS)
        chances, _ = learner.get_preds(dl=loaders.test_dl([Path(path) for path in task["judge"]]))
    names = list(loaders.vocab)
    return [list(task["classes"]).index(names[int(number)]) for number in chances.argmax(1)]


def autogluon(task: Task) -> list[int]:
    """AutoGluon's MultiModalPredictor at its medium preset, on the same Lite0: its own networks are downloads."""
    import pandas as pd  # type: ignore[import-untyped]
    import torch
    from autogluon.multimodal import MultiModalPredictor  # type: ignore[import-not-found]

    body, side, _ = _pretrained("efficientnet-lite0")
    network, half = Path(task["scratch"]) / "lite0", [0.5] * 3
    network.mkdir()
    torch.save(body.state_dict(), network / "pytorch_model.bin")
    told = {"architecture": "tf_efficientnet_lite0", "num_features": 1280, "input_size": [3, side, side],
            "mean": half, "std": half}  # fmt: skip
    (network / "config.json").write_text(json.dumps(told))
    table = pd.DataFrame(task["learn"], columns=["image", "label"])
    predictor = MultiModalPredictor(label="label", path=str(Path(task["scratch"]) / "autogluon"))
    wanted = {"model.names": ["timm_image"], "model.timm_image.checkpoint_name": str(network), "env.num_gpus": 0,
              "env.num_workers": 0, "env.num_workers_inference": 0}  # fmt: skip
    predictor.fit(table, presets="medium_quality", seed=task["seed"], hyperparameters=wanted)
    return [int(number) for number in predictor.predict(pd.DataFrame({"image": task["judge"]}))]


CONTESTANTS: Final[Mapping[str, Callable[[Task], list[int]]]] = {
    "edge-app": ours,
    "timm lite0 + logistic regression": lambda task: logistic(task, "efficientnet-lite0"),
    "timm lite2 + logistic regression": lambda task: logistic(task, "efficientnet-lite2"),
    "fastai fine_tune": fastai,
    "AutoGluon": autogluon,
}
NEEDS: Final = {"fastai fine_tune": "fastai.vision.all", "AutoGluon": "autogluon.multimodal"}
"""What a contestant imports that may be absent."""


def _pretrained(network: str) -> tuple[Any, int, float]:
    """A network of timm's with the weights of the Python package, its input size and central crop."""
    from edge_models.networks.backbones import LITES, create_backbone

    backbone: Any = create_backbone(network)
    return backbone.body.eval(), LITES[network].side_px, LITES[network].centre


def _opened(path: str) -> Any:
    from PIL import Image

    return Image.open(path).convert("RGB")


if __name__ == "__main__":
    # As `edge-app train` does for itself, for everybody.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    borrow()
    who, asked, told = sys.argv[1:]
    Path(told).write_text(json.dumps(CONTESTANTS[who](json.loads(Path(asked).read_text(encoding="utf-8")))))
