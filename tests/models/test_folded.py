"""Batch-norms folded into convolutions, and taken out again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge_app.core.model_card import InputSpec
from edge_models.networks.backbone import Backbone, Source
from edge_models.networks.backbones import LITES, create_backbone
from edge_models.networks.folded import folded, unfolded


class Shuffled(Backbone):
    """Lists a norm behind a convolution, but runs it before it."""

    def __init__(self, turned: bool) -> None:
        body = nn.ModuleDict({"convolution": nn.Conv2d(3, 3, 3), "norm": nn.BatchNorm2d(3)})
        spec = InputSpec("input", 64, 64, "RGB", (127.5,) * 3, (127.5,) * 3)
        super().__init__("shuffled", body, spec, "centre-1", Source("MIT", True, "random weights", ""))
        self.turned = turned
        _randomize(self)

    def layers(self) -> tuple[nn.Module, ...]:
        parts = tuple(self.body.children())
        return parts[::-1] if self.turned else parts

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean((2, 3))


def _randomize(net: nn.Module) -> None:
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 2.0)
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.bias)


@pytest.mark.parametrize(("name", "left"), [("efficientnet-lite0", 0), ("small-resnet-8", 1)])
def test_a_folded_network_sees_the_same_and_hands_back_what_it_learned(name: str, left: int) -> None:
    backbone = create_backbone(name, pretrained=False, size=64).eval()
    _randomize(backbone)
    found = folded(backbone)
    # The stem of the small ones pools between its convolution and its norm.
    assert found is not backbone and sum(isinstance(module, nn.BatchNorm2d) for module in found.modules()) == left
    assert len(found.groups) == len(backbone.groups)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before, top = backbone(images), len(backbone.groups) - 2
        assert torch.allclose(found(images), before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))
        assert torch.allclose(
            found.lower(images, top), backbone.lower(images, top), rtol=1e-3, atol=1e-3
        )  # cut anywhere, for caches keep what lies below
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
        learned = found.eval()(images)
        assert not torch.allclose(learned, before, rtol=1e-2)
        names = list(backbone.state_dict())
        unfolded(found, backbone)
        assert torch.allclose(backbone(images), learned, rtol=1e-3, atol=1e-4 * float(learned.abs().max()))
    assert list(backbone.state_dict()) == names  # a checkpoint of it is as any other


@pytest.mark.parametrize("name", LITES)
def test_a_lite_is_the_plain_chain_it_is_taken_for(name: str) -> None:
    backbone = create_backbone(name, pretrained=False, size=64).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        seen = backbone.maps(images)
        assert backbone.sequential and backbone.pool(seen).shape == (1, backbone.features)
        for layer in backbone.layers():
            images = layer(images)
    assert torch.allclose(images, seen)


def test_a_network_that_runs_its_parts_in_another_order_is_left_as_it_is() -> None:
    straight, turned = Shuffled(False), Shuffled(True)
    assert folded(straight) is not straight
    assert folded(turned) is turned
    before = {name: tensor.clone() for name, tensor in turned.state_dict().items()}
    unfolded(turned, turned)
    assert all(torch.equal(tensor, before[name]) for name, tensor in turned.state_dict().items())
