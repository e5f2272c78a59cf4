"""Damaged files: whatever bytes a weight file or an image holds, the error is ours and one line."""

import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import lamina
from lamina.data.image import ImageSpec, prepare
from lamina.data.text import Codec
from lamina.errors import LaminaError
from lamina.infer import session, translate
from tests.weights.test_ctranslate2_file import as_ctranslate2, packed
from tests.zoo.test_transformer import small

COUNT = 250  # mutants of each kind of file
SMALL = {"maps": [2, 3], "hidden": [6, 5]}  # of lenet5_dense
METADATA = {
    "image": json.dumps({"size": 32, "resize": 28, "pad": 2, "channels": "L", "mean": [0.5], "std": [0.5]}),
    "data": "fashion_mnist",
    "score_scale": "0.5",
    "changes": json.dumps(SMALL),
}


def mutants(whole: bytes, seed: int) -> Iterator[bytes]:
    """The file with bytes changed, taken out, doubled, or cut off; most of them where headers are, at its beginning and end."""
    draw = random.Random(seed)
    for _ in range(COUNT):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 5, 20))):
            near = draw.choice((64, 1024, len(data)))
            place = draw.randrange(min(near, len(data)))
            place = draw.choice((place, place, len(data) - 1 - place))
            match draw.randrange(6):
                case 0 | 1 | 2:
                    data[place] = draw.randrange(256)
                case 3:
                    data[place] ^= 1 << draw.randrange(8)
                case 4:
                    del data[place : place + draw.choice((1, 1, 4, 100))]
                case 5:
                    data[place:place] = data[place : place + draw.choice((1, 4, 100))]
            if not data:
                break
        yield bytes(data[: draw.randrange(len(data))] if data and draw.random() < 0.05 else data)


def outcomes(path: Path, whole: bytes, seed: int, use: Callable[[], object]) -> dict[str, int]:
    """What becomes of the mutants: "used", or "refused" with one line. Any other error is the test's failure."""
    path.write_bytes(whole)
    use()
    found = {"used": 0, "refused": 0}
    for number, data in enumerate(mutants(whole, seed)):
        path.write_bytes(data)
        try:
            use()
            found["used"] += 1
        except LaminaError as error:
            assert "\n" not in str(error), f"mutant {number}"
            found["refused"] += 1
        except Exception as error:
            error.add_note(f"mutant {number} of {path.name}")
            raise
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
def test_weight_files(suffix, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / f"net{suffix}"
    state = lamina.build("lenet5_dense", **SMALL).state_dict()
    if suffix == ".safetensors":
        save_file(state, path, METADATA)
    elif suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)

    def use() -> None:
        if suffix == ".safetensors":
            net = session.Session("lenet5_dense", path)
            net.ranked(net.scores(torch.zeros(1, 1, 32, 32))[0], 5)
        else:
            lamina.load("lenet5_dense", path, **SMALL)(torch.zeros(1, 1, 32, 32))

    found = outcomes(path, path.read_bytes(), 1, use)
    assert all(found.values()), found


@pytest.mark.slow
def test_weights_for_text(tmp_path):
    """The metadata hold the encoding, too."""
    pytest.importorskip("tokenizers", reason="needs lamina[text]")
    torch.manual_seed(0)
    changes = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 8, "d_ff": 8, "n_heads": 2, "vocabulary": 262}
    codec = Codec.learn(["to be or not to be"], 262)
    metadata = {"image": "{}", "changes": json.dumps(changes), "tokenizer": codec.dump(), "source": "en", "target": "de"}
    path = tmp_path / "net.safetensors"
    save_file(lamina.build("transformer_de_en", **changes).state_dict(), path, metadata)

    def use() -> None:
        translate.translator("transformer_de_en", path).translate(["to be"], beams=1)

    found = outcomes(path, path.read_bytes(), 4, use)
    assert all(found.values()), found


@pytest.mark.slow
def test_ctranslate2_files(tmp_path):
    net = small("untied", norm="pre", attention_bias=True, positions="opennmt").eval()
    variables = as_ctranslate2(net)
    variables |= {f"{side}/num_heads": torch.tensor(4, dtype=torch.int8) for side in ("encoder", "decoder")}
    del variables["decoder/projection/weight"]
    whole = packed(4, variables, {"decoder/projection/weight": "decoder/embeddings/weight"})
    (tmp_path / "source_vocabulary.txt").write_text("\n".join(["<s>", "</s>", *"abcdefgh"]))
    (tmp_path / "target_vocabulary.txt").write_text("\n".join(["<s>", "</s>", *"ABCDE"]))

    def use() -> None:
        translate.translator(str(tmp_path)).translate(["abba"], beams=1)

    found = outcomes(tmp_path / "model.bin", whole, 2, use)
    assert all(found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_images(form, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, form)
    path = tmp_path / f"image.{form.lower()}"
    found = outcomes(path, stream.getvalue(), 3, lambda: prepare(path, ImageSpec(size=16, resize=16)))
    assert all(found.values()), found
