"""Networks at work, for the page to show: the maps of a digit, an image's classes and maps, what a ViT looks at, and a
translation step by step through the beam. Arrays are given as {"shape", "data"}: 0 to 255 between "low" and "high", as base64.
"""

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lamina.data.image import ImageSpec, from_pixels, prepare
from lamina.errors import InputError, LaminaError
from lamina.infer import layers as timing
from lamina.infer.generate import beam_search, pad
from lamina.infer.networks import RANDOM
from lamina.infer.session import Session
from lamina.infer.translate import Translator, translator
from lamina.weights.features import features
from lamina.zoo import registry, vit
from lamina.zoo.lenet import squash

DIGIT = 28  # pixels along a side, as MNIST has them
MAPS = 64  # channels that are shown
SIDE = 64  # pixels along a map's side, at most
SESSIONS = 3  # networks kept with their weights
TRANSLATOR = "transformer_de_en"
WORDS = 200  # characters of a sentence


def number(text: str, name: str, most: int) -> int:
    if not text.isdigit() or not 1 <= int(text) <= most:
        raise InputError(f"{name} is a whole number from 1 to {most}, not {text!r}")
    return int(text)


def packed(values: Tensor) -> dict[str, Any]:
    """An array to send."""
    low, high = float(values.min()), float(values.max())
    scaled = (values.float() - low) * (255 / (high - low) if high > low else 0)
    data = scaled.round().to(torch.uint8).cpu().numpy().tobytes()
    return {"shape": list(values.shape), "low": low, "high": high, "data": base64.b64encode(data).decode()}


class Live:
    """`weights` are files or tags by network, where they are not the network's own first ones. Networks are loaded when
    they are first asked for, and the last few are kept."""

    def __init__(self, weights: Mapping[str, str], pixels: int):
        self.weights, self.pixels = dict(weights), pixels
        self.sessions: dict[str, Session] = {}
        self.lock = threading.Lock()  # one network at work at a time

    def can(self, name: str) -> list[str]:
        """What can be run with a network: "image", and "attention" of a ViT."""
        if name not in registry.counts():
            return ["image"] if name.startswith("timm:") else []
        family = registry.spec(name).family
        return [] if family == "transformer" else ["image", "attention"] if family == "vit" else ["image"]

    def session(self, name: str) -> Session:
        found = self.sessions.pop(name, None) or Session(name, self.weights.get(name))
        self.sessions[name] = found
        while len(self.sessions) > SESSIONS:
            del self.sessions[next(iter(self.sessions))]
        return found

    @cached_property
    def translator(self) -> Translator:
        return translator(TRANSLATOR)

    @torch.inference_mode()
    def digit(self, body: bytes) -> dict[str, Any]:
        """{"maps": [{"name", "maps"}], "codes", "distances", "answer"} of 28 x 28 bytes of ink, 0 to 255, by `lenet5`."""
        if len(body) != DIGIT * DIGIT:
            raise InputError(f"a digit is {DIGIT * DIGIT} bytes, {DIGIT} rows of {DIGIT}, not {len(body)}")
        with self.lock:
            session = self.session("lenet5")
            pixels = torch.from_numpy(np.frombuffer(body, np.uint8).copy()).reshape(1, 1, DIGIT, DIGIT)
            x = from_pixels(pixels, session.image)
            names = ("c1", "s2", "c3", "s4", "c5", "f6")
            found: dict[str, Tensor] = features(session.module, x, names)
            distances = -session.scores(x)[0]
        net: Any = session.module
        # Outputs after the squashing function, which the paper counts to each layer (equations 5 and 6).
        maps = [{"name": name.upper(), "maps": packed(squash(found[name][0]))} for name in names]
        return {
            "input": packed(x[0]), "maps": maps, "codes": packed(net.rbf.codes),
            "distances": [round(float(d), 3) for d in distances], "answer": int(distances.argmin()),
        }  # fmt: skip

    @torch.inference_mode()
    def image(self, name: str, body: bytes, layer: str) -> dict[str, Any]:
        """{"predictions", "weights", "seen", "layer", "maps", "channels"}: the five likeliest classes, the image as the network
        sees it, and the outputs of the layer, a module's path."""
        with self.lock:
            session = self.session(name)
            x = self._prepared(session, body)
            answer = (session.score_scale * session.scores(x[None]))[0].softmax(dim=0)
            result: dict[str, Any] = {
                "predictions": session.ranked(answer, 5),
                "weights": session.weights,
                "seen": seen(x, session.image),
            }
            path = layer.partition(":")[0].partition("/")[0]
            if path and path in dict(session.module.named_modules()):
                maps = _maps(features(session.module, x[None], [path])[path])
                result |= {"layer": path, "maps": packed(maps[:MAPS]), "channels": len(maps)}
        return result

    def _prepared(self, session: Session, body: bytes) -> Tensor:
        return prepare(_Named(body), session.image, self.pixels)

    @torch.inference_mode()
    def attention(self, name: str, body: bytes) -> dict[str, Any]:
        """{"predictions", "seen", "grid", "blocks": [array (heads, grid, grid)]}: how much the class token looks at each patch
        (equation 6), in every block and head."""
        if "attention" not in self.can(name):
            raise InputError(f"{name} has no attention over an image: take a ViT, such as vit_mnist")
        with self.lock:
            session = self.session(name)
            x = self._prepared(session, body)
            blocks: list[Tensor] = []

            def look(module: Any, inputs: Any) -> None:
                blocks.append(module.weights(inputs[0])[0])  # (heads, N, N)

            parts = [m for m in session.module.modules() if isinstance(m, vit.Attention)]
            handles = [part.register_forward_pre_hook(look) for part in parts]
            try:
                scores = session.module(x[None])[0]
            finally:
                for handle in handles:
                    handle.remove()
        net: Any = session.module
        grid = net.config.grid
        rows = [block[:, 0, -grid * grid :].unflatten(1, (grid, grid)) for block in blocks]
        answer = (session.score_scale * scores).softmax(dim=0)
        return {
            "predictions": session.ranked(answer, 5), "weights": session.weights, "seen": seen(x, session.image), "grid": grid,
            "blocks": [packed(row) for row in rows],
        }  # fmt: skip

    @torch.inference_mode()
    def sentence(self, body: bytes, beams: int) -> dict[str, Any]:
        """{"source", "target", "score", "source_tokens", "target_tokens", "attention": [array (heads, T, S) of each decoder
        layer], "steps": [[{"text", "score"}]]} of a sentence, UTF-8, by `transformer_de_en`. A step has the beam's sequences
        after so many tokens."""
        try:
            text = body.decode().strip()
        except UnicodeDecodeError:
            raise InputError("the sentence is not UTF-8") from None
        if not text or len(text) > WORDS:
            raise InputError(f"a sentence of 1 to {WORDS} characters, not {len(text)}")
        with self.lock:
            net = self.translator
            ids = net.codec.sources([text])
            source, padding = pad(ids, net.codec.pad)
            where = (source, net.codec.start, net.codec.end, padding)
            module: Any = net.module
            longest = min(module.config.max_length, 2 * source.shape[1] + 10)
            best = beam_search(module, *where, beams=beams, max_length=longest)[0][0]
            steps = [self._beam(where, beams, length) for length in range(1, min(len(best.ids) + 1, longest) + 1)]
            attention = _cross_attention(net, source, padding, best.ids)
        return {
            "source": text, "target": net.codec.decode(best.ids), "score": round(best.score, 4),
            "source_tokens": [_token(net, i) for i in ids[0]], "target_tokens": [*(_token(net, i) for i in best.ids), "end"],
            "attention": [packed(a) for a in attention], "steps": steps,
        }  # fmt: skip

    def _beam(self, where: Any, beams: int, length: int) -> list[dict[str, Any]]:
        """The search stopped after so many tokens: what it holds then."""
        module: Any = self.translator.module
        found = beam_search(module, *where, beams=beams, hypotheses=beams, max_length=length)[0]
        return [{"text": self.translator.codec.decode(h.ids), "score": round(h.score, 4)} for h in found]

    def measure(self, name: str) -> dict[str, Any]:
        """{"how", "seconds": {layer: seconds}}: each module's time in eager torch here. Any numbers take the same time, so the
        weights are random where none are known."""
        with self.lock:
            try:
                found = timing.profile(name, self.weights.get(name, RANDOM if name in registry.counts() else None))
            except LaminaError as error:
                raise InputError(str(error)) from error
        return {"how": found["machine"], "seconds": {row["name"]: row["median_ms"] / 1e3 for row in found["layers"]}}


class _Named(io.BytesIO):
    """A file that messages call "the image"."""

    def __str__(self) -> str:
        return "the image"


def seen(x: Tensor, spec: ImageSpec) -> dict[str, Any]:
    """The prepared image (C, H, W) in red, green and blue, each channel from its least to its greatest value."""
    if spec.channels == "BGR":
        x = x.flip(0)
    flat = x.flatten(1)
    low, high = flat.min(dim=1).values[:, None, None], flat.max(dim=1).values[:, None, None]
    return packed((x - low) / (high - low).clamp(min=1e-6))


def _maps(output: Any) -> Tensor:
    """A layer's output as maps (channels, height, width): of tokens (N, D) one map of tokens by numbers."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise InputError("this layer's output is not an array of numbers")
    maps = output[0]
    maps = maps[:, None, None] if maps.dim() == 1 else maps[None] if maps.dim() == 2 else maps
    while maps.dim() > 3:
        maps = maps.flatten(0, 1)
    height, width = maps.shape[1:]
    if max(height, width) > SIDE:
        size = (min(SIDE, height), min(SIDE, width))
        maps = F.adaptive_avg_pool2d(maps[None], size)[0]
    return maps


def _cross_attention(net: Translator, source: Tensor, padding: Tensor, ids: Sequence[int]) -> list[Tensor]:
    """Of each decoder layer (heads, T, S): softmax(q k^T / sqrt(d)) of the translation's tokens over the source's, the
    translation being given (Vaswani et al. 2017, equation 1)."""
    module: Any = net.module
    found: list[Tensor] = []

    def look(attention: Any, inputs: Any) -> None:
        x, keys, _, mask = inputs[:4]
        query = attention.split(attention.query(x))
        logits = query @ keys.transpose(-2, -1) / query.shape[-1] ** 0.5
        found.append(logits.masked_fill(~mask, float("-inf")).softmax(dim=-1)[0])

    handles = [layer.cross_attention.register_forward_pre_hook(look) for layer in module.decoder]
    try:
        memory = module.encode(source, padding)
        module.decode(torch.tensor([[net.codec.start, *ids]]), memory, padding)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _token(net: Translator, token: int) -> str:
    return net.codec.decode([token]) or ("end" if token == net.codec.end else "·")
