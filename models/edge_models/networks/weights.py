"""Weight files, read without running code, and weights from timm's hub without a long wait where it is not reached."""

from __future__ import annotations

import contextlib
import difflib
import http.client
import logging
import pickle
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from edge_app.core.errors import ModelError, UsageError

PATIENCE_S: Final = 5.0
"""How long a hub has to answer at all; its own client would try for half a minute before it gave up."""

_HUB_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""Under which names timm's weights lie on its hub, in the order in which timm looks."""
_MOST_NAMED: Final = 5
_TORCH_BEGINS: Final = (b"PK", b"\x80\x02")
"""First bytes of what `torch.save` writes, today's and the older kind."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dictionary without unpickling objects: .safetensors, or torch's format weights-only.

    Raises ModelError when the file is absent, damaged, or holds anything but tensors by name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{path} {what}", expected="a weight file (.safetensors, .pth)", remedy="check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            if file.read(2) not in _TORCH_BEGINS:
                raise ModelError(f"{path} is no weight file", expected=".safetensors, or .pth as torch writes it")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ModelError(f"{path} cannot be read ({first_line(error)})", expected="a whole weight file") from error
    except pickle.UnpicklingError as error:
        # Its own words are several lines of advice, one of which is to run the file's code.
        raise ModelError(
            f"{path} was refused: it holds more than tensors",
            expected="tensors only: files that run code are not loaded",
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds something else than weights", expected="tensors by name")
    return dict(state)


def load_into(body: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Give a network its weights; tensors that it has no place for, a classifier's say, are left out.

    `what` names them in the ModelError that is raised when one is missing or has another shape.
    """
    own = body.state_dict()
    missing = [key for key in own if key not in state]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or wrong:
        raise ModelError(
            f"{what} does not fit: {len(missing)} tensors missing, {len(wrong)} of another shape "
            f"(first: {(missing + wrong)[0]})",
            expected="the weights of this very network",
        )
    body.load_state_dict({key: state[key] for key in own})


def first_line(error: BaseException) -> str:
    """What an error of another's making says first, 160 characters of it at most."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def create_timm(name: str, *, fetch: bool, others: Sequence[str] = ()) -> Any:
    """The timm network of that name without its classifier; its weights from the hub, or random.

    What the hub's cache holds is taken from there without asking the network. `others` are names that are meant
    perhaps, beside timm's own. Raises UsageError for a name or a tag that timm does not know or has no weights for,
    ModelError when the weights cannot be had.
    """
    import timm

    refuse_unknown(name, others)
    architecture = name.split(".")[0]
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if "." in name and name.partition(".")[2] not in tags:
        raise UsageError(
            f"timm has no weights {name!r}", expected=f"after {architecture}.: {', '.join(tags) or 'nothing'}"
        )
    if not fetch:
        return timm.create_model(name, pretrained=False, num_classes=0)
    if not tags:
        raise UsageError(
            f"timm has no weights for {name}",
            expected="a network that it has weights for",
            remedy="name a weight file with --weights",
        )
    return _fetched(name)


def refuse_unknown(name: str, others: Sequence[str] = ()) -> None:
    """Raise UsageError for a name that timm does not know, with those of it and of `others` that are near."""
    import timm

    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, [*others, *timm.list_models()], _MOST_NAMED)
        raise UsageError(
            f"there is no backbone called {name!r}",
            expected=", ".join(near) if near else f"{' or '.join(others)}, or a timm name such as resnet18",
            remedy="did you mean one of these?" if near else "",
        )


def is_reachable(url: str, patience_s: float = PATIENCE_S) -> bool:
    """Whether anything answers at a URL in time, be it with a refusal; the environment's proxies are used."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=patience_s).close()
        except urllib.error.HTTPError:
            pass  # an answer
        except (OSError, http.client.HTTPException) as error:
            # A certificate that is not trusted is an answer too, and the hub's client may trust it.
            if not isinstance(getattr(error, "reason", error), ssl.SSLError):
                return
        answered.set()

    # A thread that is left behind: looking up the name heeds no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience_s)
    return answered.is_set()


def _fetched(name: str) -> Any:
    import timm

    cfg: Any = timm.get_pretrained_cfg(name)
    # Where the weights lie that timm would fetch.
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(cfg.hf_hub_id, cfg.hf_hub_filename or _HUB_FILES[0]) if cfg.hf_hub_id else str(cfg.url)
    known = _is_here(cfg, url)
    reachable = known or is_reachable(url)
    try:
        with _hub_in_few_words(offline=known or not reachable):
            if not reachable and not cfg.hf_hub_id:
                raise ConnectionError(url)
            return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        why = f"could not be fetched ({first_line(error)})"
        if not reachable:
            why = f"are not on this machine, and {urllib.parse.urlsplit(url).hostname} does not answer"
        raise ModelError(
            f"the weights of {name} {why}",
            remedy=f"go online once, or fetch {url} elsewhere and name it with --weights FILE, or use "
            "efficientnet-lite0, which needs no network",
        ) from error


def _is_here(cfg: Any, url: str) -> bool:
    """Whether an earlier run has fetched them."""
    from huggingface_hub import try_to_load_from_cache

    if not cfg.hf_hub_id:
        return (Path(torch.hub.get_dir()) / "checkpoints" / Path(urllib.parse.urlsplit(url).path).name).is_file()
    files = [cfg.hf_hub_filename] if cfg.hf_hub_filename else _HUB_FILES
    return any(isinstance(try_to_load_from_cache(cfg.hf_hub_id, file), str) for file in files)


@contextlib.contextmanager
def _hub_in_few_words(*, offline: bool) -> Iterator[None]:
    """The hub tells each of its retries on standard error; the one line that we tell says enough.

    `offline`: it takes what its cache holds, or fails at once.
    """
    from huggingface_hub import constants

    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    levels = [logger.level for logger in loggers]
    before = constants.HF_HUB_OFFLINE
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
