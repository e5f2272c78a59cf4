"""`hf:ID_OR_DIRECTORY`: a network of the transformers library from its config.json, without weights.

The network is transformers' own class that the config names; code of the repository's is never run. What its forward takes
is made so that no value of a tensor is read. transformers is imported only in functions.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lamina.errors import InputError, LaminaError, first_line
from lamina.sources.source import RANDOM, Input, Loaded, Shape, Shapes, Source
from lamina.workload import Device, Layer, Workload, replace

if TYPE_CHECKING:
    import torch
    from torch import nn

TOKENS = 128  # of a text by default, as other counters take; less where the network's positions end before
SIDE = 224  # of an image where the config names none, as a convolutional network's
SECOND = 16000  # samples of one second of speech


# How a network that takes tokens is called, in turn: without a mask; with one of which it reads no value; with a mask of
# ones; with that and tokens whose values it may read.
CALLS = ("plain", "4-D", "ones", "words")
WORD = 3  # the token then, which is no mark of padding


@dataclass(frozen=True)
class HuggingFace(Source):
    """A network of transformers, with its config (`config.json`)."""

    form: ClassVar[str] = "hf:ID_OR_DIRECTORY"

    @classmethod
    def claims(cls, model: str) -> bool:
        return model.startswith("hf:")

    @classmethod
    def read(cls, model: str) -> "HuggingFace":
        try:
            import transformers  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(f"{model}: needs transformers: pip install transformers") from error
        where = model.removeprefix("hf:")
        path = Path(where) / "config.json" if Path(where).is_dir() else _fetch(model, where)
        if not path.is_file():
            raise InputError(f"{model}: there is no config.json in {where}")
        module = _build(model, path)
        config = module.config
        return cls(model, module, {name: _default(model, name, config) for name in _arguments(module, config)})

    def loaded(self, weights: str | Path | None = None, device: str = "cpu") -> Loaded:
        """Images are prepared as the preprocessor_config.json beside the weights says."""
        from lamina.weights import hub

        if weights not in (None, RANDOM):
            raise InputError(f"{self.name}: its weights lie beside its config.json: give hf:DIRECTORY, without --weights")
        where = self.name.removeprefix("hf:")
        made: Any = self.module
        try:
            if weights == RANDOM:
                module = type(made)(made.config)
            else:
                module = type(made).from_pretrained(where, trust_remote_code=False)
        except Exception as error:
            raise LaminaError(f"{self.name}: its weights cannot be loaded: {first_line(error)}") from error
        labels = getattr(module.config, "id2label", None) or {}
        image = hub.settings(where) if module.main_input_name == "pixel_values" else None
        classes = [labels[key] for key in sorted(labels)]
        return Loaded(module.eval().to(device), RANDOM if weights == RANDOM else where, image or None, classes)

    def shapes(self, inputs: Shapes | None = None, past: int = 0) -> dict[str, Shape]:
        shapes = super().shapes(inputs, past)
        new = _decoded(shapes)
        if past and new is not None and not {None, new} & set(inputs or {}):
            shapes[new] = (shapes[new][0], 1)
        return shapes

    def check_past(self, past: int) -> None:
        module: Any = self.module
        if past < 0:
            raise InputError(f"{self.name}: a past has 0 tokens or more, not {past}")
        if past and not module.can_generate():
            raise InputError(f"{self.name}: {type(module).__name__} generates no text: it has no past to continue")

    def running(self) -> Source:
        raise InputError(f"{self.name}: a configuration has no weights to run with: give --run a FILE.py:callable")

    def trace(self, tensors: Mapping[str, "torch.Tensor"], past: int, name: str, device: Device) -> Workload:
        """Without a mask, if the network does not make one by values of its own; then attention knows that it is causal.
        Else as one of `CALLS` after it; of errors the first one says most."""
        refusals: list[LaminaError] = []
        for way in CALLS if "input_ids" in "".join(tensors) else CALLS[:1]:
            try:
                work = self._call(_worded(tensors) if way == "words" else tensors, past, name, device, way)
                break
            except LaminaError as error:
                refusals.append(error)
        else:
            raise refusals[0]
        new = _decoded(tensors)
        work = self._annotate(work, tensors[new].shape[1] if past and new is not None else None)
        return replace(work, assumptions=(*work.assumptions, *self._left_out(work, tensors)))

    def _left_out(self, work: Workload, given: Mapping[str, Any]) -> list[str]:
        """That a network of text and images was given text alone: where its images go is decided by the tokens' values."""
        images = [name for name in ("pixel_values", "pixel_values_videos", "input_features") if name in self.arguments()]
        if "input_ids" not in given or not images or images[0] in given or not work.parameters_unused:
            return []
        unused = f"text alone, without {images[0]}: {work.parameters_unused:,} parameters are not used"
        return [f"{unused}; --data with the processor's {images[0]} and tokens counts them"]

    def _call(self, tensors: Mapping[str, "torch.Tensor"], past: int, name: str, device: Device, way: str) -> Workload:
        from lamina.tracing.tracer import trace

        module: Any = self.module
        known = self.arguments()
        if not past:
            extras = {"use_cache": False} if "use_cache" in known else {}
            given: dict[str, Any] = {**tensors, **self._positions(tensors, 0, way), **extras}
            return trace(module, name=name, device=device, **given)
        key = _decoded(tensors)
        assert key is not None  # a network that generates text has it
        before = {**tensors, key: tensors[key].new_empty((tensors[key].shape[0], past))}
        results: list[Any] = []
        call = {**before, **self._positions(before, 0, way), "use_cache": True}
        trace(lambda: results.append(module(**call)))  # the cache, as the network itself makes it of so many tokens
        result = results[-1]
        arguments: dict[str, Any] = {key: tensors[key], "past_key_values": result.past_key_values, "use_cache": True}
        if arguments["past_key_values"] is None:
            raise InputError(f"{type(module).__name__} gives no key/value cache")
        if key == "decoder_input_ids":
            arguments["encoder_outputs"] = (result.encoder_last_hidden_state,)
        return trace(module, name=name, device=device, **arguments, **self._positions({key: tensors[key]}, past, way))

    def _positions(self, tensors: Mapping[str, "torch.Tensor"], past: int, way: str) -> dict[str, Any]:
        """The positions of the tokens, and the mask that the way of calling has (`CALLS`)."""
        import torch

        known = self.arguments()
        given: dict[str, Any] = {}
        ids = tensors.get("input_ids")
        if ids is not None and "position_ids" in known and len(tensors) == 1:
            given["position_ids"] = torch.arange(past, past + ids.shape[1])[None]  # real: the library asks if they go on
        for key, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
            if way != "plain" and key in tensors and mask in known:
                batch, length = tensors[key].shape
                if way == "4-D":
                    given[mask] = torch.empty((batch, 1, length, past + length), dtype=torch.bool, device="meta")
                else:
                    given[mask] = torch.ones((batch, past + length), dtype=torch.long)
        return given

    def _annotate(self, work: Workload, new: int | None) -> Workload:
        """Say of attention under a mask that it is causal (`causal`), how the mask lies (`aligned`) and how many keys a query
        sees at most (`window`), and of products with experts how many there are and how many a token goes to (`experts`).

        `new` is the number of tokens that follow a past: one token sees all keys, of several the last one does.
        """
        module: Any = self.module
        modules = dict(module.named_modules())

        def annotated(layer: Layer) -> Layer:
            owner = modules.get(layer.module)
            found: dict[str, Any] = {}
            if layer.op == "scaled_dot_product_attention" and layer.inputs[0].shape[-2] > 1:
                found = self._mask(layer, owner, new)
            experts, chosen = _experts(owner), _first(module.config, "num_experts_per_tok", "num_experts_per_token", "moe_topk")
            if experts and chosen and (layer.loops or layer.weights):
                found["experts"] = (experts, chosen)
            return replace(layer, attributes={**layer.attributes, **found}) if found else layer

        return replace(work, layers=tuple(annotated(layer) for layer in work.layers))

    def _mask(self, layer: Layer, owner: Any, new: int | None) -> dict[str, Any]:
        """What `_annotate` says of the mask of an attention with several queries."""
        module: Any = self.module
        queries, keys = layer.inputs[0].shape[-2], layer.inputs[1].shape[-2]
        causal = layer.attributes.get("causal") or bool(getattr(owner, "is_causal", False))
        if causal and new is not None:
            if new == 1 or queries != new:  # the heads that share their keys may be laid out as queries
                return {"causal": False}
            if "aligned" not in layer.attributes:
                return {"causal": True, "aligned": "bottom right"} | _limited(owner, module.config, keys)
        return {"causal": causal} | (_limited(owner, module.config, keys) if causal else {})


def _worded(tensors: Mapping[str, "torch.Tensor"]) -> "dict[str, torch.Tensor]":
    import torch

    return {n: torch.full(x.shape, WORD) if n.endswith("input_ids") else x for n, x in tensors.items()}


def _decoded(named: Mapping[str, Any]) -> str | None:
    """The input whose tokens a step continues: the decoder's where there is one."""
    return next((name for name in ("decoder_input_ids", "input_ids") if name in named), None)


def _limited(owner: Any, config: Any, keys: int) -> dict[str, int]:
    window = _window(owner, config)
    return {"window": window} if window and window < keys else {}


def _fetch(model: str, where: str) -> Path:
    """The config.json of a repository of the hub, from the library's cache if it is there."""
    from lamina.weights.hub import hub_answers

    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(where)
    except ValueError as error:
        raise InputError(f"{model}: {where} is neither a directory nor the OWNER/NAME of a repository") from error
    reason = "there is no network"
    for local in (True, False):
        if local or hub_answers():
            try:
                return Path(hf_hub_download(where, "config.json", local_files_only=local))
            except (OSError, ValueError) as error:  # all of the library's errors are one of them
                reason = reason if local else first_line(error)
    raise LaminaError(f"{model}: its config.json is not in the cache and cannot be fetched ({reason}); give hf:DIRECTORY")


def _build(model: str, path: Path) -> "nn.Module":
    import torch
    import transformers  # pyright: ignore[reportMissingImports]

    try:
        named = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{model}: {path} is not JSON: {first_line(error)}") from error
    kind = named.get("model_type") if isinstance(named, dict) else None
    known = list(transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
    if kind not in known:
        if isinstance(named, dict) and "auto_map" in named:
            raise InputError(f"{model}: its network is Python code of the repository's own, which is not run")
        near = difflib.get_close_matches(str(kind), known, n=4, cutoff=0.5)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise InputError(f"{model}: this transformers knows no model_type {kind!r} (config.json){hint}")
    names = named.get("architectures") or []
    cls = getattr(transformers, names[0], None) if names else transformers.AutoModel
    if not isinstance(cls, type) or not (cls is transformers.AutoModel or issubclass(cls, transformers.PreTrainedModel)):
        raise InputError(f"{model}: this transformers has no architecture {names[0]!r} (config.json)")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
        with torch.device("meta"):
            module = cls.from_config(config) if cls is transformers.AutoModel else cls(config)
    except Exception as error:
        raise InputError(f"{model}: transformers cannot build {names[0] if names else kind}: {first_line(error)}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    return module.eval()


def _arguments(module: Any, config: Any) -> list[str]:
    """The inputs that the forward is given: the main one, the decoder's, and the image beside a text unless the network
    goes on with the text (an image's place among the tokens is known by their values)."""
    names = [module.main_input_name]
    if config.is_encoder_decoder:
        names.append("decoder_input_ids")
    if not module.can_generate() and _first(config, "vision_config") and _first(config, "text_config"):
        names = ["input_ids", "pixel_values"]
    return names


def _default(model: str, name: str, config: Any) -> Input:
    """What the config says of an input."""
    if name in ("input_ids", "decoder_input_ids"):
        text = config.get_text_config()
        limit = _first(text, "max_position_embeddings", "n_positions", "max_target_positions")
        return Input((1, min(TOKENS, limit or TOKENS)), True)
    if name == "pixel_values":
        vision = _first(config, "vision_config") or config
        side = _first(vision, "image_size") or SIDE
        sides = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
        frames = _first(vision, "num_frames")
        channels = _first(vision, "num_channels") or 3
        return Input((1, *([frames] if frames else []), channels, *sides))
    bins, frames = _first(config, "num_mel_bins"), _first(config, "max_source_positions")
    if name == "input_features" and bins and frames:
        return Input((1, bins, 2 * frames))
    if name == "input_values":
        return Input((1, config.max_length, bins) if bins else (1, SECOND))
    raise InputError(f"{model}: Lamina does not know how to make its input {name!r}")


def _experts(module: Any) -> int | None:
    """How many experts a module has whose weights hold them all, (experts, out, in)."""
    count = getattr(module, "num_experts", None)
    stacked = isinstance(count, int) and any(p.dim() == 3 and p.shape[0] == count for p in module.parameters(recurse=False))
    return count if stacked else None


def _window(module: Any, config: Any) -> int | None:
    """The keys that a query of this attention sees at most, itself included; None: all."""
    if hasattr(module, "sliding_window"):
        return module.sliding_window
    kinds = _first(config, "layer_types")
    if kinds and kinds[getattr(module, "layer_idx", 0)] != "sliding_attention":
        return None
    return _first(config, "sliding_window")


def _first(config: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)
