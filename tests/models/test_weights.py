"""Weight files: what is refused and how it is told, and that a machine without a network is not kept waiting."""

import http.server
import socket
import threading

import pytest

pytest.importorskip("torch")

import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from edge_app.core.errors import ModelError, UsageError
from edge_models.networks import backbones
from edge_models.networks.weights import create_timm, is_reachable, read_state

NET = "test_resnet"  # timm's smallest: 0.5 M parameters


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub's, and a network on which every name that is looked up is noted and unknown."""
    asked = []

    def unknown(host, *rest, **more):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return asked


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet81", "expected resnet18,"),
        ("efficentnet-lite0", "expected efficientnet-lite0,"),
        ("", "or a timm name such as resnet18"),
        ("qqqqqqqq", "or a timm name such as resnet18"),
        ("resnet18.tv_in1kx", "expected after resnet18.: a1_in1k, "),
        ("inception-resnet-v1:lfw", "inception-resnet-v1:vggface2 or inception-resnet-v1:casia-webface"),
        ("inception-resnet-v1-vggface2", "inception-resnet-v1:vggface2 or"),
        ("vit_base_patch16_xp_224", "timm has no weights for"),
    ],
)
def test_a_name_that_is_none_is_told_with_those_that_are_near(hub, name, told):
    with pytest.raises(UsageError, match=told.replace(".", "[.]")):
        backbones.create_backbone(name)
    assert not hub


def test_without_a_network_the_hub_is_asked_once_and_the_file_is_named(hub):
    with pytest.raises(ModelError, match=r"huggingface[.]co does not answer") as told:
        backbones.create_backbone(f"timm:{NET}")
    assert f"https://huggingface.co/timm/{NET}.r160_in1k/resolve/main/model.safetensors" in str(told.value)
    assert "--weights FILE" in str(told.value) and len(hub) == 1
    assert not constants.HF_HUB_OFFLINE


def test_weights_that_lie_elsewhere_and_facenets_name_their_file_too(hub, tmp_path):
    with pytest.raises(ModelError, match=r"github[.]com does not answer.*gcvit_xxtiny_224_nvidia-d1d86009[.]pth"):
        create_timm("gcvit_xxtiny", fetch=True)
    path = tmp_path / "torch" / "checkpoints" / "20180402-114759-vggface2.pt"
    with pytest.raises(ModelError, match=f"github.com does not answer.*put it at {path}"):
        backbones.create_backbone("inception-resnet-v1:vggface2")
    assert hub == ["github.com"] * 2 and not path.parent.exists()


def test_what_an_earlier_run_fetched_is_taken_without_asking_the_network(hub, tmp_path):
    cache = tmp_path / "hub" / f"models--timm--{NET}.r160_in1k"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    torch.manual_seed(3)
    import timm

    kept = timm.create_model(NET, pretrained=False).state_dict()
    save_file(kept, snapshot / "model.safetensors")
    body = create_timm(NET, fetch=True)
    assert not hub and torch.equal(body.state_dict()["conv1.0.weight"], kept["conv1.0.weight"])
    assert not any(name.startswith("fc.") for name in body.state_dict())


def test_a_named_file_serves_instead_of_the_hub(hub, tmp_path):
    body = create_timm(NET, fetch=False)
    save_file(body.state_dict() | {"fc.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    network = backbones.create_backbone(NET, weights=tmp_path / "w.safetensors")
    assert not hub and torch.equal(network.body.state_dict()["conv1.0.weight"], body.state_dict()["conv1.0.weight"])
    assert network.source.origin == str(tmp_path / "w.safetensors")


def test_a_refusal_is_an_answer_and_silence_is_none():
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *rest):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert is_reachable(f"http://127.0.0.1:{server.server_port}/x")
    server.shutdown()
    server.server_close()
    assert not is_reachable(f"http://127.0.0.1:{server.server_port}/x")


def test_a_name_that_takes_forever_to_look_up_is_not_waited_for(monkeypatch):
    done, looked_up = threading.Event(), threading.Event()

    def look_up(*rest, **more):
        done.wait(60)
        looked_up.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert not is_reachable("http://nowhere.invalid/", patience_s=0.2)
    assert not looked_up.is_set()
    done.set()
    assert looked_up.wait(60)


def test_files_that_are_no_weights_are_refused_in_our_words(tmp_path):
    (tmp_path / "notes.pth").write_text("hello")
    (tmp_path / "half.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    torch.save({"model": object()}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "good.pth")
    for name, told in {
        "notes.pth": "is no weight file",
        "half.safetensors": "cannot be read",
        "code.pth": "holds more than tensors",
        "list.pth": "something else than weights",
        "absent.pth": "does not exist",
        ".": "is a folder",
    }.items():
        with pytest.raises(ModelError, match=told) as error:
            read_state(tmp_path / name)
        assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
    assert read_state(tmp_path / "good.pth").keys() == {"a"}
