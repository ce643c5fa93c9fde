"""Layers of the architectures of torchvision and timm, against plain forward hooks.

A layer is written ``layer``, ``layer@axis`` or ``layer>after``: the reader must give what the module returns, or, for
``layer>after``, what the module ``after`` returns (``after#2``: in its second call). The axis of units is that of the
layer's own weights, 1 for a convolution and the last for a linear layer, or the one that is written for blocks. One
unit of every layer with weights is then silenced, and the reader must find that unit silent and no other.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from convergence.errors import ConfigError
from convergence.networks.layer_config import LayerConfig
from convergence.networks.layer_reader import LayerReader

UNIT = 1
SMALL = (3, 64, 96)
SQUARE = (3, 64, 64)
Net = tuple[str, dict[str, object], tuple[int, ...], str]
"""Name, arguments of its builder, shape of the images, and layers."""

RESIDUAL = "conv1>relu layer2.0.conv1>layer2.0.relu#1 layer3.0.conv2>layer3.0"
BOTTLENECK = "conv1>relu layer2.0.conv2>layer2.0.relu#2 layer3.0.conv3>layer3.0"
REGNET = "stem.0>stem trunk_output.block2.block2-0.f.b.0>trunk_output.block2.block2-0.f.b trunk_output.block4@1"
SWIN = "features.0.0 features.1.0.mlp.0>features.1.0.mlp.1 features.3.1@-1 features.5.0.attn.qkv features.6.reduction"
VIDEO = "stem.0>stem layer2.0.conv1.0>layer2.0.conv1 layer3.1@1"
MAXVIT: dict[str, object] = {
    "input_size": (64, 64), "stem_channels": 16, "partition_size": 2, "block_channels": [16, 32],
    "block_layers": [1, 1], "head_dim": 8, "stochastic_depth_prob": 0.0,
}  # fmt: skip
MVIT: dict[str, object] = {
    "spatial_size": (32, 32), "temporal_size": 4, "residual_pool": True, "residual_with_cls_embed": False,
    "rel_pos_embed": True, "proj_after_attn": True,
}  # fmt: skip
TORCHVISION: dict[str, list[Net]] = {
    "plain": [
        ("alexnet", {}, SMALL, "features.0>features.1 features.10>features.11 classifier.1>classifier.2"),
        ("vgg11_bn", {}, (3, 32, 64), "features.0>features.2 features.18>features.20 classifier.3>classifier.4"),
        ("squeezenet1_0", {}, SMALL, "features.0>features.1 features.4.squeeze>features.4.squeeze_activation "
         "features.9@1 classifier.1>classifier.2"),
        ("squeezenet1_1", {}, SMALL, "features.0>features.1 features.6.expand3x3>features.6.expand3x3_activation "
         "features.12@1"),
    ],
    "residual": [
        ("resnet18", {}, SMALL, RESIDUAL + " layer4.1@1 fc"),
        ("resnet50", {}, SMALL, BOTTLENECK + " avgpool@1"),
        ("resnext50_32x4d", {}, SMALL, BOTTLENECK),
        ("regnet_x_400mf", {}, SMALL, REGNET),
        ("regnet_y_400mf", {}, SMALL, REGNET),
    ],
    "dense and branched": [
        ("densenet121", {}, SMALL, "features.conv0>features.relu0 "
         "features.denseblock2.denselayer3.conv1>features.denseblock2.denselayer3.relu2 features.denseblock3@1 "
         "features.transition1.conv"),
        ("googlenet", {"init_weights": False}, SMALL, "conv1.conv>conv1 "
         "inception4a.branch2.0.conv>inception4a.branch2.0"
         " inception5b@1"),
        ("googlenet", {"init_weights": False, "aux_logits": False}, SMALL, "conv2.conv>conv2 inception3a@1 fc"),
        ("inception_v3", {"init_weights": False}, (3, 96, 80), "Conv2d_1a_3x3.conv>Conv2d_1a_3x3 "
         "Mixed_6b.branch7x7_2.conv>Mixed_6b.branch7x7_2 Mixed_7c@1"),
        ("inception_v3", {"init_weights": False, "aux_logits": False}, (3, 96, 80), "Mixed_5b@1 Mixed_6e@1 fc"),
        ("shufflenet_v2_x0_5", {}, SMALL, "conv1.0>conv1.2 stage3.1.branch2.0>stage3.1.branch2.2 stage4.3@1"),
        ("shufflenet_v2_x1_0", {}, SMALL, "stage2.0.branch1.2>stage2.0.branch1.4 stage3.7@1 conv5.0>conv5.2"),
    ],
    "inverted bottlenecks": [
        ("mobilenet_v2", {}, SMALL, "features.0.0>features.0.2 features.8.conv.0.0>features.8.conv.0 features.16@1"),
        ("mobilenet_v3_small", {}, SMALL, "features.0.0>features.0.2 features.5.block.0.0>features.5.block.0.2 "
         "features.8@1 classifier.0>classifier.1"),
        ("mobilenet_v3_large", {}, SMALL, "features.4.block.1.0>features.4.block.1.2 features.14@1 "
         "features.4.block.2.fc1>"
         "features.4.block.2.activation"),
        ("mnasnet0_5", {}, SMALL, "layers.0>layers.2 layers.9.1.layers.0>layers.9.1.layers.2 layers.12.2@1"),
        ("mnasnet1_0", {}, SMALL, "layers.3>layers.5 layers.10.0@1 layers.14>layers.16"),
        ("efficientnet_b0", {}, SMALL, "features.0.0>features.0.2 features.4.1.block.0.0>features.4.1.block.0.2 "
         "features.6@1"),
        ("efficientnet_v2_s", {}, SQUARE, "features.1.0.block.0.0>features.1.0.block.0.2 features.4.0@1 features.7.0>"
         "features.7.2"),
    ],
    "channels last": [
        ("convnext_tiny", {}, SMALL, "features.0.0 features.1.0.block.3>features.1.0.block.4 features.5.8@1 "
         "features.7.1.block.5"),
        ("swin_t", {}, SMALL, SWIN),
        ("swin_v2_t", {}, SMALL, SWIN),
        ("vit_b_16", {"image_size": 32}, (3, 32, 32), "conv_proj encoder.layers.encoder_layer_3.mlp.0>"
         "encoder.layers.encoder_layer_3.mlp.1 encoder.layers.encoder_layer_5.self_attention@-1 "
         "encoder.layers.encoder_layer_11@-1"),
        ("MaxVit", MAXVIT, SQUARE, "stem.0.0>stem.0 "
         "blocks.1.layers.0.layers.MBconv.layers.conv_a.0>blocks.1.layers.0.layers.MBconv.layers.conv_a "
         "blocks.0.layers.0.layers.grid_attention.mlp_layer.1>blocks.0.layers.0.layers.grid_attention.mlp_layer.2 "
         "blocks.1.layers.0@1"),
    ],
    "video": [
        ("r3d_18", {}, (3, 4, 32, 48), VIDEO),
        ("mc3_18", {}, (3, 4, 32, 48), VIDEO),
        ("r2plus1d_18", {}, (3, 4, 32, 48), "stem.0>stem.2 layer2.0.conv1.0.3>layer2.0.conv1 layer3.1@1"),
        ("swin3d_t", {}, (3, 4, 32, 64), "patch_embed.proj features.0.0.mlp.0>features.0.0.mlp.1 features.4.1@-1"),
        ("MViT", MVIT, (3, 4, 32, 32), "conv_proj blocks.0.mlp.0>blocks.0.mlp.1 blocks.0.attn@-1 blocks.1@-1"),
    ],
    "segmentation": [
        ("fcn_resnet50", {"weights_backbone": None}, (3, 32, 48), "backbone.conv1>backbone.relu backbone.layer2.0@1 "
         "classifier.0>"
         "classifier.2"),
        ("deeplabv3_mobilenet_v3_large", {"weights_backbone": None}, SMALL, "backbone.4.block.0.0>backbone.4.block.0.2 "
         "classifier.0.convs.1.0>classifier.0.convs.1.2 classifier.4"),
        ("lraspp_mobilenet_v3_large", {"weights_backbone": None}, SMALL, "backbone.0.0>backbone.0.2 backbone.7@1 "
         "classifier.cbr.0>classifier.cbr.2"),
    ],
}  # fmt: skip
SLOW: list[Net] = [
    ("regnet_x_800mf", {}, SMALL, REGNET),
    ("regnet_y_800mf", {}, SMALL, REGNET),
    ("resnet34", {}, SMALL, RESIDUAL),
    ("densenet169", {}, SMALL, "features.denseblock3@1 features.transition2.conv classifier"),
    ("efficientnet_b1", {}, SMALL, "features.2.1@1 features.5.1.block.1.0>features.5.1.block.1.2 features.7@1"),
    (
        "vit_b_32",
        {"image_size": 64},
        SQUARE,
        "conv_proj encoder.layers.encoder_layer_7@-1 encoder.layers.encoder_layer_9.mlp.3",
    ),
]
VIT = "patch_embed.proj blocks.4.mlp.fc1>blocks.4.mlp.act blocks.5.attn@-1 blocks.8@-1 blocks.9.attn.qkv"
TIMM: dict[str, list[Net]] = {
    "convolutions": [
        ("resnet10t", {}, SMALL, "conv1.0>conv1.2 layer2.0.conv1>layer2.0.act1 layer3.0.conv2>layer3.0"),
        ("efficientnet_lite0", {}, SMALL, "conv_stem>bn1.act blocks.2.1.conv_pw>blocks.2.1.bn1 blocks.4.2@1"),
        ("mobilenetv3_small_050", {}, SMALL, "conv_stem>bn1 blocks.3.1.conv_pw>blocks.3.1.bn1 blocks.4.0@1"),
        ("nf_regnet_b0", {}, SMALL, "stem.conv stages.1.0.conv1>stages.1.0.act2 stages.2.1@1 final_conv>final_act"),
        ("hrnet_w18_small", {}, SMALL, "conv1>act1 stage2.0.branches.1.0.conv1>stage2.0.branches.1.0.act1 "
         "stage3.0.branches.2@1"),
        ("ghostnet_100", {}, SMALL, "conv_stem>act1 blocks.3.0.ghost1@1 blocks.6.1@1"),
        ("tresnet_m", {}, SQUARE, "body.conv1.conv>body.conv1.bn body.layer2.0.conv1.conv>body.layer2.0.conv1.bn "
         "body.layer3.0@1"),
        ("repvgg_a0", {}, SMALL, "stem.conv_kxk.conv>stem stages.1.0@1 stages.2.1.conv_1x1.conv>stages.2.1"),
        ("fastvit_t8", {}, SMALL, "stem.0@1 stages.1.blocks.0.mlp.fc1>stages.1.blocks.0.mlp.act stages.2.blocks.1@1"),
    ],
    "channels last and pooling": [
        ("convnext_atto", {}, SMALL, "stem.0 stages.1.blocks.0.mlp.fc1>stages.1.blocks.0.mlp.act stages.2.blocks.1@1"),
        ("swin_tiny_patch4_window7_224", {"img_size": 56}, (3, 56, 56), "patch_embed.proj "
         "layers.0.blocks.1.mlp.fc1>layers.0.blocks.1.mlp.act layers.0.blocks.1.attn@-1 layers.1.downsample.reduction"),
        ("poolformer_s12", {}, SMALL, "stem.conv stages.1.blocks.0.mlp.fc1>stages.1.blocks.0.mlp.act "
         "stages.2.blocks.3@1"),
        ("edgenext_xx_small", {}, SMALL, "stem.0 stages.0.blocks.1.mlp.fc1>stages.0.blocks.1.mlp.act "
         "stages.2.blocks.5@1 stages.2.blocks.5.xca@-1"),
        ("hiera_tiny_224", {"stages": (1, 1, 2, 1)}, (3, 224, 224), "patch_embed.proj "
         "blocks.1.mlp.fc1>blocks.1.mlp.act blocks.2.attn.qkv"),
    ],
    "tokens": [
        ("vit_tiny_patch16_224", {"img_size": 64}, SQUARE, VIT),
        ("deit_tiny_distilled_patch16_224", {"img_size": 64}, SQUARE, VIT),
        ("beit_base_patch16_224", {"img_size": 48}, (3, 48, 48), "patch_embed.proj blocks.0.mlp.fc1>blocks.0.mlp.act "
         "blocks.1.attn@-1"),
        ("cait_xxs24_224", {"img_size": 64}, SQUARE, "patch_embed.proj blocks.4.mlp.fc1>blocks.4.mlp.act "
         "blocks.5.attn@-1 blocks.8@-1 blocks_token_only.0.mlp.fc1>blocks_token_only.0.mlp.act"),
        ("eva02_tiny_patch14_224", {"img_size": 56}, (3, 56, 56), "patch_embed.proj blocks.4.mlp.fc1 "
         "blocks.4.mlp.drop1@-1 blocks.5.attn@-1 blocks.8@-1 blocks.9.attn.qkv"),
        ("xcit_nano_12_p16_224", {"img_size": 64}, SMALL, "patch_embed.proj.0.0>patch_embed.proj.1 "
         "blocks.3.local_mp.conv1>blocks.3.local_mp.act blocks.5.mlp.fc1>blocks.5.mlp.act blocks.7@-1"),
        ("pvt_v2_b0", {}, SMALL, "patch_embed.proj stages.1.blocks.0.mlp.fc1>stages.1.blocks.0.mlp.fc1 "
         "stages.2.blocks.1@-1 stages.1.blocks.0.attn.sr"),
    ],
    "mixers": [
        ("mixer_s32_224", {"img_size": 96}, (3, 96, 96), "stem.proj "
         "blocks.1.mlp_channels.fc1>blocks.1.mlp_channels.act "
         "blocks.3@-1 blocks.1.mlp_tokens.fc1>blocks.1.mlp_tokens.act"),
        ("resmlp_12_224", {"img_size": 64}, SQUARE, "stem.proj blocks.2.mlp_channels.fc1>blocks.2.mlp_channels.act "
         "blocks.5@-1 blocks.2.linear_tokens"),
    ],
    "hybrids": [
        ("coat_lite_tiny", {"img_size": 64}, SQUARE, "patch_embed1.proj "
         "serial_blocks2.0.mlp.fc1>serial_blocks2.0.mlp.act "
         "serial_blocks3.1@-1 cpe1.proj#2"),
        ("coatnet_nano_rw_224", {"img_size": 64}, SQUARE, "stem.conv1>stem.norm1 stages.1.blocks.0.conv2_kxk>"
         "stages.1.blocks.0.norm2 stages.2.blocks.1.attn@1 stages.2.blocks.1.mlp.fc1>stages.2.blocks.1.mlp.act"),
        ("levit_128s", {}, (3, 224, 224), "stem.conv1.linear>stem.act1 stages.0.blocks.0.mlp.ln1.linear>"
         "stages.0.blocks.0.mlp.act stages.1.blocks.0@-1"),
        ("visformer_tiny", {"img_size": 64}, SQUARE, "stem.0>stem.2 stage1.0.mlp.conv1>stage1.0.mlp.act1 stage2.1@1 "
         "stage2.0.attn.qkv"),
        ("volo_d1_224", {"img_size": 64}, SQUARE, "patch_embed.conv.0>patch_embed.conv.2 network.0.0.mlp.fc1>"
         "network.0.0.mlp.act network.0.1@-1 network.2.1@-1 network.0.0.attn.unfold@1"),
    ],
}  # fmt: skip


def torchvision_net(name: str, **arguments) -> nn.Module:
    from torchvision import models

    if name == "MaxVit":  # maxvit_t takes images of 224 pixels only
        return models.MaxVit(**arguments)
    if name == "MViT":  # mvit_v2_s takes 16 frames of 224 pixels only
        block = models.video.mvit.MSBlockConfig
        sizes = ([3, 3, 3], [3, 3, 3])
        blocks = [block(1, 16, 32, *sizes, [1, 1, 1], [1, 2, 2]), block(2, 32, 32, *sizes, [1, 2, 2], [1, 1, 1])]
        return models.video.MViT(block_setting=blocks, **arguments)
    return models.get_model(name, weights=None, **arguments)


def timm_net(name: str, **arguments) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, **arguments)


def families(nets: dict[str, list[Net]], of_check: str) -> list[object]:
    """Families of nets as parameters; those that are not part of ``make check`` are slow."""
    return [pytest.param(name, marks=() if name == of_check else pytest.mark.slow) for name in nets]


@pytest.mark.parametrize("family", families(TORCHVISION, "plain"))
def test_layers_of_torchvision(family):
    check_all(torchvision_net, TORCHVISION[family])


@pytest.mark.parametrize("family", families(TIMM, "mixers"))
def test_layers_of_timm(family):
    pytest.importorskip("timm")
    check_all(timm_net, TIMM[family])


REFUSED = [
    ("swin_tiny_patch4_window7_224", {"img_size": 56}, 56, "layers.0.blocks.0.attn.softmax", "axis 1 for 3 units"),
    ("vit_tiny_patch16_224", {"img_size": 32}, 32, "blocks.0.attn.q_norm", "axis 1 for 3 units .* axis 3 for 64 units"),
    ("coat_lite_tiny", {"img_size": 64}, 64, "cpe1.proj", "is called 2 times for an image. Choose one of cpe1.proj#1"),
    ("coat_lite_tiny", {"img_size": 64}, 64, "crpe1", "is called 2 times"),
]
"""Maps of attention; queries, whose units run along heads and dimensions; modules that several blocks share."""


def test_layers_without_one_reading_are_refused():
    pytest.importorskip("timm")
    for name, arguments, side, layer, says in REFUSED:
        with pytest.raises(ConfigError, match=says):
            LayerReader(timm_net(name, **arguments).eval(), [layer], torch.randn((2, 3, side, side)))


def test_backbone_of_a_detector_is_read_though_its_answer_is_no_tensor():
    from torchvision.models import detection

    net = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).eval()
    images = torch.rand((2, 3, 64, 64))
    layers = ["backbone.body.0.0", "backbone.body.6", "backbone.fpn.layer_blocks.0.0"]
    found = LayerReader(net, {layer: LayerConfig(point="output") for layer in layers}, images)(images)
    with torch.no_grad():
        hooked = outputs(net, images)
    for layer in layers:
        assert torch.equal(found[layer], hooked[layer][0].flatten(2))


@pytest.mark.slow
def test_layers_of_larger_nets():
    check_all(torchvision_net, SLOW)


def check_all(build: Callable[..., nn.Module], nets: list[Net]) -> None:
    wrong = {}
    for name, arguments, shape, layers in nets:
        torch.manual_seed(0)
        problems = list(differences(build(name, **arguments).eval(), layers.split(), torch.randn((2, *shape))))
        if problems:
            wrong[name] = problems
        gc.collect()
    assert not wrong


@torch.no_grad()
def differences(net: nn.Module, layers: list[str], images: torch.Tensor) -> Iterator[str]:
    """What the reader gives otherwise than hooks."""
    rows = [(*text.partition("@")[0].partition(">")[::2], text.partition("@")[2]) for text in layers]
    own = {layer: axis for layer, axis in ((layer, weight_axis(net, layer)) for layer, _, _ in rows) if axis}
    configs = {f"output of {layer}": LayerConfig(module=layer, point="output") for layer in own}
    configs |= {layer: LayerConfig() if after else LayerConfig(point="output") for layer, after, _ in rows}
    reader = LayerReader(net, configs, images)
    found, hooked = reader(images), outputs(net, images)
    exactly = not any(isinstance(part, nn.MultiheadAttention) for part in net.modules())  # its fast path rounds anew
    for layer, after, axis in rows:
        source, _, call = (after or layer).partition("#")
        if layer in own and source not in hooked:
            continue  # the net uses the weights without a call of the module
        wanted = hooked[source][int(call or 1) - 1]
        k = own[layer] if layer in own else int(axis)
        if not same(found[layer], as_maps(wanted, k, len(images)), exactly):
            yield f"{layer}: {tuple(found[layer].shape)} of {reader.sources[layer]}, {tuple(wanted.shape)} of {source}"
    for layer in own:
        part = net.get_submodule(layer.partition("#")[0])
        part.weight[UNIT] = 0
        if part.bias is not None:
            part.bias[UNIT] = 0
    found = reader(images)
    for layer in own:
        maps = found[f"output of {layer}"]
        silent = (maps == 0).flatten(2).all(dim=2).all(dim=0)
        if len(silent) != len(net.get_submodule(layer.partition("#")[0]).weight) or silent.nonzero().tolist() != [
            [UNIT]
        ]:
            yield f"{layer}: {len(silent)} units, of which {silent.nonzero().flatten().tolist()} are silent"


def weight_axis(net: nn.Module, layer: str) -> int:
    """The axis of units of a layer with weights of its own; 0 for other layers."""
    part = net.get_submodule(layer.partition("#")[0])
    return 1 if isinstance(part, nn.modules.conv._ConvNd) else -1 if isinstance(part, nn.Linear) else 0


def outputs(net: nn.Module, images: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """What every module returns in every call, before anything changes it in place."""
    found: dict[str, list[torch.Tensor]] = {}

    def hook(path: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                found.setdefault(path, []).append(first.clone())

        return keep

    handles = [part.register_forward_hook(hook(path)) for path, part in net.named_modules()]
    net(images)
    for handle in handles:
        handle.remove()
    return found


def same(x: torch.Tensor, y: torch.Tensor, exactly: bool) -> bool:
    return torch.equal(x, y) if exactly else x.shape == y.shape and torch.allclose(x, y, 1e-4, 1e-5)


def as_maps(output: torch.Tensor, axis: int, n: int) -> torch.Tensor:
    """(n, units, positions) of an output with n · k rows, where k windows are positions."""
    windows = output.unflatten(0, (n, -1))
    return windows.movedim(axis + 1 if axis > 0 else axis, 1).flatten(2)
