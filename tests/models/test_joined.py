"""Networks side by side: features, heads and class maps are the members' own; names with sizes."""

import pytest

pytest.importorskip("torch")

import torch

from edge_app.core.errors import UsageError
from edge_models.classifier.network import Head, TransferClassifier
from edge_models.networks.backbones import at_side, check_name, create_backbone
from edge_models.networks.joined import JoinedBackbone, joined_heads

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = "timm:test_efficientnet"


def test_logits_and_class_maps_of_joined_members_are_the_mean_of_the_members_own() -> None:
    torch.manual_seed(0)
    members = [create_backbone(TINY, pretrained=False) for _ in range(2)]
    singles = []
    for number, member in enumerate(members):
        head = Head(member.features, 3)
        torch.nn.init.normal_(head.linear.weight)
        torch.nn.init.normal_(head.linear.bias)
        head.scale.fill_(0.5 + number)
        singles.append(TransferClassifier(member, head).eval())
    joined = JoinedBackbone(f"{TINY}+{TINY}", members)
    head = Head(joined.features, 3)
    heads = [single.head for single in singles]
    weight, bias, scale = joined_heads(
        [h.linear.weight.detach() for h in heads],
        [h.linear.bias.detach() for h in heads],
        [float(h.scale) for h in heads],
    )
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias)
        head.scale.fill_(scale)
    side = joined.input.height_px or 0
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        logits, maps = TransferClassifier(joined, head).eval().logits_and_maps(images)
        own = [single.logits_and_maps(images) for single in singles]
    assert torch.allclose(logits, (own[0][0] + own[1][0]) / 2, atol=1e-4)
    assert not torch.allclose(own[0][0], own[1][0], atol=0.1)
    assert torch.allclose(maps, (own[0][1] + own[1][1]) / 2, atol=1e-4)


def test_the_last_layers_of_all_members_are_unfrozen_together() -> None:
    joined = create_backbone(f"{TINY}+{TINY}", pretrained=False)
    alone = create_backbone(TINY, pretrained=False)
    count = [sum(p.numel() for p in group) for group in alone.unfreeze(2)]
    assert [sum(p.numel() for p in group) for group in joined.unfreeze(2)] == [2 * n for n in count]
    assert len(joined.groups) == len(alone.groups)


def test_a_size_behind_the_name_is_the_size_of_the_input() -> None:
    backbone = create_backbone(f"{TINY}@96", pretrained=False)
    assert (backbone.input.width_px, backbone.input.height_px, backbone.name) == (96, 96, f"{TINY}@96")
    assert backbone.crop.startswith("centre-")
    assert create_backbone(f"{TINY}@96-whole", pretrained=False).crop == "whole"
    other = at_side(create_backbone(f"{TINY}@96-whole", pretrained=False), 64)
    assert (other.name, other.crop, other.input.width_px) == (f"{TINY}@64-whole", "whole", 64)
    check_name("efficientnet-lite0@128+efficientnet-lite2")
    for wrong in (
        f"{TINY}@100",
        f"{TINY}@",
        f"{TINY}@0",
        f"{TINY}@-32",
        f"{TINY}@4096",
        f"{TINY}@96-",
        f"{TINY}@-whole",
    ):
        with pytest.raises(UsageError, match="multiple of 32"):
            create_backbone(wrong, pretrained=False)
    with pytest.raises(UsageError, match="nothing_such"):
        check_name("efficientnet-lite0+nothing_such")


def test_members_that_want_other_pixels_are_refused() -> None:
    with pytest.raises(UsageError, match="pixel values"):
        create_backbone(f"{TINY}+efficientnet-lite0@160", pretrained=False)
