"""Networks of text and images: both are counted where the tokens say where images go; text alone is said to be that."""

from pathlib import Path
from typing import Any

import pytest
import torch

transformers: Any = pytest.importorskip("transformers", reason="needs transformers: make peers", exc_type=ImportError)

from lamina.sources import resolve  # noqa: E402
from lamina.tracing.tracer import trace  # noqa: E402
from lamina.workload import Workload  # noqa: E402
from tests import real_counts  # noqa: E402

TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 200, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
IMAGE, START, END = 150, 152, 153  # tokens


def llava() -> tuple[Any, dict[str, torch.Tensor]]:
    """Four by four patches, a token each."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    text = transformers.LlamaConfig(**TEXT)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    ids = torch.tensor([[3, 4, 5, *16 * [IMAGE], 6, 7]])
    return config, {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32)}


def qwen2_vl() -> tuple[Any, dict[str, torch.Tensor]]:
    """Eight by eight patches of 2·4·4 pixels, four to a token."""
    vision = {
        "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2,
        "temporal_patch_size": 2, "in_channels": 3, "mlp_ratio": 2,
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2VLConfig(
        vision_config=vision, text_config=TEXT | {"rope_parameters": rope}, image_token_id=IMAGE, video_token_id=151,
        vision_start_token_id=START, vision_end_token_id=END,
    )  # fmt: skip
    ids = torch.tensor([[3, 4, START, *16 * [IMAGE], END, 6, 7]])
    return config, {
        "input_ids": ids, "pixel_values": torch.randn(64, 3 * 2 * 4 * 4), "image_grid_thw": torch.tensor([[1, 8, 8]]),
        "mm_token_type_ids": (ids == IMAGE).int(),
    }  # fmt: skip


KINDS = {"llava": (llava, "LlavaForConditionalGeneration"), "qwen2_vl": (qwen2_vl, "Qwen2VLForConditionalGeneration")}


def made(kind: str) -> tuple[Any, dict[str, torch.Tensor]]:
    inputs, architecture = KINDS[kind]
    config, given = inputs()
    torch.manual_seed(0)
    return getattr(transformers, architecture)(config).eval(), given


def counts(work: Workload) -> real_counts.Counts:
    total = work.total()
    assert work.coverage.unknown == ()
    return real_counts.Counts(total.parameters, total.macs, total.backward_macs)


@pytest.mark.parametrize("kind", KINDS)
def test_through_the_api(kind: str) -> None:
    module, given = made(kind)
    found = [trace(module, **given, values=values) for values in (False, True)]
    real = real_counts.count(module, **given)
    assert [counts(work) for work in found] == [real, real]
    assert [work.parameters_unused for work in found] == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_config(kind: str, tmp_path: Path) -> None:
    module, given = made(kind)
    module.config.architectures = [KINDS[kind][1]]
    module.config.save_pretrained(tmp_path)
    source = resolve(f"hf:{tmp_path}")
    assert counts(source.workload(example=given)) == real_counts.count(module, **given)
    words = torch.randint(3, 90, (1, 16))
    alone = source.workload({"input_ids": (1, 16)})
    assert counts(alone) == real_counts.count(made(kind)[0], input_ids=words)
    (said,) = alone.assumptions
    assert said.startswith("text alone, without pixel_values") and "--data" in said
