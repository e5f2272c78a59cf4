"""transformers' image classifiers and timm's networks in a `Session`, in the environment of the peers."""

from typing import Any

import pytest
import torch
from PIL import Image

from lamina.errors import InputError
from lamina.infer.session import Session


@pytest.fixture
def folder(tmp_path: Any) -> Any:
    """A small ViT with its labels and preprocessing, as `save_pretrained` writes them."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    labels = {i: f"class {i}" for i in range(12)}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, id2label=labels)
    net = transformers.ViTForImageClassification(config).eval()
    net.save_pretrained(tmp_path / "vit")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    processor.save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.mark.parametrize("rewrite", [False, True])
def test_an_image_classifier_of_transformers(folder: Any, rewrite: bool) -> None:
    import transformers

    session = Session(f"hf:{folder}", rewrite=rewrite)
    assert (session.image.size, session.image.squash, session.image.mean) == (32, True, (0.4, 0.4, 0.4))
    image = Image.effect_noise((32, 32), 80).convert("RGB")  # of the size it takes: nothing is resampled
    image.save(folder / "noise.png")
    net = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    values = transformers.ViTImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    with torch.inference_mode():
        expected = net(**values).logits.softmax(1)[0]
    (found,) = session.predict([str(folder / "noise.png")], top=12)
    assert len(found["predictions"]) == 12
    for row in found["predictions"]:
        assert row["label"] == f"class {row['index']}"
        assert row["probability"] == pytest.approx(100 * expected[row["index"]].item(), abs=2e-3)


def test_fresh_weights_and_a_file_of_them(folder: Any) -> None:
    assert Session(f"hf:{folder}", "random").weights == "random"
    with pytest.raises(InputError, match=r"its weights lie beside its config\.json"):
        Session(f"hf:{folder}", folder / "model.safetensors")


def test_a_network_of_timm() -> None:
    timm = pytest.importorskip("timm")
    session = Session("timm:resnet18", "random", rewrite=True)
    torch.manual_seed(0)
    net = timm.create_model("resnet18", pretrained=False).eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.allclose(session.run(x)[0], net(x), atol=1e-4)
