"""Model zoos by name: named weights from local caches, nothing downloaded unless asked, and preparation of images."""

import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from convergence.config.load import parse_config  # noqa: E402
from convergence.config.nets import NetGroup  # noqa: E402
from convergence.errors import ConfigError, FileError, UserError  # noqa: E402
from convergence.io.files import file_sha256  # noqa: E402
from convergence.networks.weight_files import MissingWeightsError  # noqa: E402
from convergence.networks.weights import initialise  # noqa: E402
from convergence.networks.zoo import check_named_hash  # noqa: E402
from convergence.training.given_weights import read_given  # noqa: E402

IMAGE = (3, 64, 64)


def nets(network, **more):
    network = network if isinstance(network, dict) else {"name": network}
    return NetGroup.model_validate({"network": network, **more}).resolved(0, 1.0)


def loaded(net, image_shape=IMAGE, n_classes=4):
    """A net built for a data set of four classes, with its named weights."""
    return read_given(net, image_shape, n_classes).load().eval()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch.hub."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_named_weights_of_torchvision_come_from_the_cache_or_not_at_all(hub):
    from torchvision import models

    (net,) = nets("torchvision:squeezenet1_1", weights="DEFAULT")
    with pytest.raises(MissingWeightsError, match=r"not in the cache.*squeezenet1_1-b8a52dc0.pth.*download = true"):
        loaded(net)
    torch.manual_seed(3)
    source = models.squeezenet1_1()
    torch.save(source.state_dict(), hub / "squeezenet1_1-b8a52dc0.pth")
    module = loaded(net)
    x = torch.randn(2, *IMAGE)
    assert torch.equal(module(x), source.eval()(x)), "1,000 outputs, as the weights have"
    with pytest.raises(FileError, match="SHA-256 of the file begins with"):
        check_named_hash(hub / "squeezenet1_1-b8a52dc0.pth", file_sha256(hub / "squeezenet1_1-b8a52dc0.pth"))
    with pytest.raises(ConfigError, match='no weights "IMAGENET1K_V9"; did you mean "IMAGENET1K_V1"'):
        loaded(nets("torchvision:squeezenet1_1", weights="IMAGENET1K_V9")[0])


def test_torchvision_files_with_old_keys_and_auxiliary_heads_fit(hub):
    from torchvision import models

    dense = models.DenseNet(4, (1, 1, 1, 1), 8)
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for key, value in dense.state_dict().items()
        if "denselayer" in key
    }
    torch.save(old, hub / "densenet121-a639ec97.pth")
    (net,) = nets("torchvision:densenet121", weights="IMAGENET1K_V1")
    state = net.spec.read_weights("DEFAULT", net.spec.find_weights("DEFAULT", False), dense)
    assert "features.denseblock1.denselayer1.norm1.weight" in state
    assert "features.denseblock1.denselayer1.conv2.weight" in state
    (net,) = nets("torchvision:googlenet", weights="DEFAULT")
    module = initialise(net.spec, 0, IMAGE, 4)
    assert module.transform_input
    assert net.spec.ignored_keys() == ("aux1.", "aux2.")


@pytest.mark.parametrize("name", ["vit_b_16", "resnet50", "inception_v3", "maxvit_t"])
def test_preparation_of_images_is_that_of_the_weights(name):
    (net,) = nets(f"torchvision:{name}", weights="DEFAULT")
    asked = net.spec.preprocessing()
    assert asked.crop in (224, 299)
    assert not asked.differences(asked.settings())
    data = {
        "crop": 32,
        "resize": 32,
        "mean": (0.5, 0.5, 0.5),
        "deviation": asked.deviation,
        "scale": 1 / 255,
        "interpolation": asked.interpolation,
    }
    assert set(asked.differences(data)) == {"crop", "resize", "mean"}


CONFIG = """
name = "zoo"
data = { name = "image_folder", root = "imgs", preparation = "network"%s }
statistics = { comparisons = ["avgpool"] }
[[nets]]
label = "a"
network = "torchvision:%s"
weights = "DEFAULT"
[[nets]]
label = "b"
network = "torchvision:resnet18"
weights = "DEFAULT"
"""


def test_preparation_is_taken_from_the_weights_where_the_config_does_not_say():
    data = parse_config(CONFIG % (", mean = [0.1, 0.2, 0.3]", "resnet34")).data
    assert (data.resize, data.crop, data.mean) == (256, 224, (0.1, 0.2, 0.3))
    assert data.preparation == "settings", "the resulting settings are stored"
    with pytest.raises(ConfigError, match=r"a asks for resize = 342, and b for 256; set data.resize"):
        parse_config(CONFIG % ("", "inception_v3"))
    data = parse_config(
        CONFIG % (", resize = 300, crop = 299, mean = [0, 0, 0], deviation = [1, 1, 1]", "inception_v3")
    )
    assert data.data.resize == 300
    with pytest.raises(ConfigError, match="no net has named weights"):
        parse_config((CONFIG % ("", "resnet34")).replace('weights = "DEFAULT"', "seeds = [1, 2]"))


def test_nets_from_seeds_have_an_output_for_each_class():
    (net,) = nets("torchvision:squeezenet1_1", seeds=[1])
    assert initialise(net.spec, 1, IMAGE, 4)(torch.zeros(1, *IMAGE)).shape == (1, 4)
    assert net.spec.preprocessing() is None
    (net,) = nets({"name": "torchvision:squeezenet1_1", "options": {"num_classes": 7}}, seeds=[1])
    assert initialise(net.spec, 1, IMAGE, 4)(torch.zeros(1, *IMAGE)).shape == (1, 7)


def test_paths_and_names_are_told_apart():
    spec = nets("torchvision:resnet18", seeds=[1])[0].spec
    assert all(spec.names_weights(text) for text in ("DEFAULT", "IMAGENET1K_V1"))
    assert not any(spec.names_weights(text) for text in ("a.pt", "./DEFAULT", "w/b.safetensors"))
    spec = nets("small", seeds=[1])[0].spec
    assert not spec.names_weights("DEFAULT")


def test_timm_weights_come_from_the_cache_of_the_hub(hub, tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    (net,) = nets("timm:test_resnet", weights="r160_in1k")
    with pytest.raises(MissingWeightsError, match=r"timm/test_resnet.r160_in1k.*download = true"):
        loaded(net)
    torch.manual_seed(5)
    source = timm.create_model("test_resnet")
    snapshot = tmp_path / "hf" / "models--timm--test_resnet.r160_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    from safetensors.torch import save_file

    save_file(source.state_dict(), snapshot / "model.safetensors")
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(loaded(net)(x), source.eval()(x))
    asked = net.spec.preprocessing()
    assert (asked.crop, asked.mean) == (160, (0.5, 0.5, 0.5)) or asked.crop == 160
    with pytest.raises(ConfigError, match='timm:test_resnet has no weights "x"'):
        loaded(nets("timm:test_resnet", weights="x")[0])
    with pytest.raises(ConfigError, match='timm has no model "test_resne"'):
        initialise(nets("timm:test_resne", seeds=[1])[0].spec, 0, IMAGE, 4)


def test_timm_nets_from_seeds_fit_the_data():
    pytest.importorskip("timm")
    (net,) = nets("timm:test_resnet", seeds=[1])
    assert initialise(net.spec, 1, (1, 32, 32), 4).eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 4)


@pytest.fixture(scope="module")
def models_of_transformers(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("hf")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    bert = transformers.BertConfig(**small, vocab_size=50, pad_token_id=3)
    transformers.BertForMaskedLM(bert).save_pretrained(place / "bert")
    transformers.BertForMaskedLM(bert).save_pretrained(place / "bert2")
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=20, bos_token_id=0)
    ).save_pretrained(place / "gpt2", max_shard_size="10kB")
    vit = transformers.ViTConfig(**small, image_size=16, patch_size=8, num_labels=5)
    transformers.ViTForImageClassification(vit).save_pretrained(place / "vit")
    (place / "vit" / "preprocessor_config.json").write_text(
        '{"size": {"height": 16, "width": 16}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], '
        '"resample": 3}'
    )
    return place


def test_transformer_takes_tokens_masks_padding_and_answers_with_logits(models_of_transformers):
    import transformers

    folder = models_of_transformers / "bert"
    (net,) = nets(f"hf:{folder}", weights="DEFAULT")
    module = loaded(net, (6,), 0)
    assert type(module).__name__ == "BertForMaskedLM"
    assert "bert.encoder.layer.0.output.dense" in dict(module.named_modules()), "the model's own module paths"
    source = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    ids = torch.tensor([[5, 6, 7, 8, -1, -1], [9, 10, 11, 12, 13, 14]])
    logits = module(ids)
    assert logits.shape == (2, 6, 50)
    alone = source(input_ids=ids[:1, :4]).logits
    assert torch.allclose(logits[:1, :4], alone, atol=1e-5), "padding does not count"


def test_transformers_of_other_architectures_answer_with_one_tensor(models_of_transformers):
    place = models_of_transformers
    ids = torch.arange(12).reshape(2, 6)
    (net,) = nets({"name": f"hf:{place / 'bert'}", "model": "BertModel"}, seeds=[1])
    assert initialise(net.spec, 1, (6,), 0)(ids).shape == (2, 6, 16), "the last hidden state"
    (net,) = nets({"name": f"hf:{place / 'bert'}", "model": "BertModel", "answer": "pooler_output"}, seeds=[1])
    assert initialise(net.spec, 1, (6,), 0)(ids).shape == (2, 16)
    (net,) = nets(f"hf:{place / 'gpt2'}", weights="DEFAULT")
    assert (place / "gpt2" / "model.safetensors.index.json").exists(), "sharded"
    module = loaded(net, (6,), 0)
    assert module(ids).shape == (2, 6, 50)
    assert module.lm_head.weight is module.transformer.wte.weight, "tied"
    (net,) = nets(f"hf:{place / 'vit'}", weights="DEFAULT")
    assert loaded(net, (3, 16, 16), 4)(torch.zeros(2, 3, 16, 16)).shape == (2, 5), "as many as the weights have"
    asked = net.spec.preprocessing()
    assert (asked.resize, asked.crop, asked.interpolation) == ((16, 16), 16, "bicubic")
    (net,) = nets(f"hf:{place / 'vit'}", seeds=[1])
    assert initialise(net.spec, 1, (3, 16, 16), 4)(torch.zeros(2, 3, 16, 16)).shape == (2, 4)


def test_several_folders_are_several_nets_of_one_network(models_of_transformers):
    place = models_of_transformers
    one, two = nets(f"hf:{place / 'bert'}", weights=["DEFAULT", f"hf:{place / 'bert2'}"])
    assert one.spec == two.spec
    states = [loaded(net, (6,), 0).state_dict() for net in (one, two)]
    key = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(states[0][key], states[1][key])
    (own,) = nets(f"hf:{place / 'bert'}", weights=[str(place / "bert2" / "model.safetensors")])
    assert torch.equal(loaded(own, (6,), 0).state_dict()[key], states[1][key])


def test_transformers_are_refused_with_the_reason(models_of_transformers, monkeypatch, tmp_path):
    place = models_of_transformers
    (net,) = nets({"name": f"hf:{place / 'bert'}", "model": "BertForSequenceClassification"}, weights="DEFAULT")
    with pytest.raises(FileError, match=r"4 keys of the net are missing.*classifier.bias.*network.model"):
        loaded(net, (6,), 4)
    for network, words in (
        ({"name": f"hf:{place / 'bert'}", "model": "BertModell"}, 'no model "BertModell"'),
        ({"name": f"hf:{place / 'bert'}", "options": {"hidden": 3}}, 'has no "hidden"'),
        ({"name": f"hf:{tmp_path}"}, "has no config.json"),
        ({"name": "hf:nobody/nothing"}, "not in the cache.*download = true"),
    ):
        with pytest.raises(UserError, match=words):
            initialise(nets(network, seeds=[1])[0].spec, 0, (6,), 4)


def test_weights_in_half_precision_are_built_in_float32(models_of_transformers, tmp_path):
    import transformers

    folder = tmp_path / "half"
    shutil.copytree(models_of_transformers / "bert", folder)
    transformers.BertForMaskedLM.from_pretrained(folder).half().save_pretrained(folder)
    (net,) = nets(f"hf:{folder}", weights="DEFAULT")
    module = loaded(net, (6,), 0)
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert Path(net.spec.find_weights("DEFAULT", False)[0]).name == "model.safetensors"
