"""Tokens per second of greedy and beam search beside CTranslate2's and transformers', on the same Marian weights in one run.

    .parity/bin/python benchmarks/translate.py [--sentences 32] [--length 24] [--small] [--json FILE]

The network has the sizes of Helsinki-NLP/opus-mt (6 + 6 layers, d_model 512, 58,101 tokens) and random weights: the work is
that of trained ones, and each search runs to the same length. The sentences are random tokens of different lengths. All
three compute in fp32 with this machine's default threads, and take turns; the medians count. Before they are timed their
tokens are compared with transformers', with weights of larger values, so that no two tokens are equally likely.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ctranslate2
import torch
import transformers
from ctranslate2.converters.transformers import MarianMTLoader

from lamina.infer import decoder, generate
from lamina.infer.turns import take_turns
from lamina.weights import fitting
from lamina.zoo.transformer import MARIAN, Net

SMALL = {"vocabulary": 1000, "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "n_heads": 4, "d_ff": 256}
END, ALPHA, BEAMS = 0, 0.6, 4


def theirs(config: Any) -> transformers.MarianMTModel:
    """transformers' network of these sizes with random weights; the padding token, the last one, starts the decoder."""
    sizes = {"vocab_size": config.vocabulary, "d_model": config.d_model, "pad_token_id": config.vocabulary - 1}
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        sizes |= {f"{side}_layers": layers, f"{side}_attention_heads": config.n_heads, f"{side}_ffn_dim": config.d_ff}
    names = {"activation_function": "swish", "scale_embedding": True, "max_position_embeddings": config.max_length}
    marks = {"eos_token_id": END, "decoder_start_token_id": config.vocabulary - 1}
    torch.manual_seed(0)
    net = transformers.MarianMTModel(transformers.MarianConfig(**sizes, **names, **marks, dropout=0.0)).eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.dim() == 2 and "embed_positions" not in name:  # a table of sinusoids
                value.normal_(std=0.5 * value.shape[-1] ** -0.5 * (4 if "proj" in name or "fc" in name else 1))
        net.model.shared.weight[-1] = 0  # CTranslate2 starts from zeros
    return net


def converted(net: transformers.MarianMTModel, folder: Path) -> Path:
    """The same weights as a CTranslate2 model; a token's name is its number."""
    spec = MarianMTLoader().get_model_spec(net)
    tokens = ["</s>", *map(str, range(1, net.config.vocab_size - 1))]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.eos_token = spec.config.decoder_start_token = tokens[END]
    spec.config.unk_token = tokens[1]
    spec.validate()
    folder.mkdir()
    spec.optimize()
    spec.save(str(folder))
    return folder


def searches(net: Any, ours: Any, translator: ctranslate2.Translator, rows: list[list[int]], length: int) -> dict[str, Any]:
    """{"library": a function of the number of beams, that gives the target's tokens of each sentence}."""
    padding = net.config.pad_token_id
    source, mask = generate.pad(rows, padding)
    names = [[*map(str, row[:-1]), "</s>"] for row in rows]
    limits = {"min_length": length, "max_length": length}

    def lamina(beams: int) -> list[list[int]]:
        options = {**limits, "length_penalty": ALPHA, "banned": (padding,)}
        if beams == 1:
            return [list(h.ids) for h in generate.greedy(ours, source, padding, END, mask, **options)]
        return [list(h[0].ids) for h in generate.beam_search(ours, source, padding, END, mask, beams=beams, **options)]

    def hugging(beams: int) -> list[list[int]]:
        options = {"min_new_tokens": length, "max_new_tokens": length, "length_penalty": ALPHA, "bad_words_ids": [[padding]]}
        options |= {"num_beams": beams, "do_sample": False, "early_stopping": True, "forced_eos_token_id": None}
        with torch.inference_mode():
            found = net.generate(source, attention_mask=(~mask).long(), **options)
        return [row[1:] for row in found.tolist()]

    def ct2(beams: int) -> list[list[int]]:
        options = {"min_decoding_length": length, "max_decoding_length": length, "length_penalty": ALPHA}
        found = translator.translate_batch(names, beam_size=beams, max_batch_size=len(names), **options)
        return [[int(token) for token in result.hypotheses[0]] for result in found]

    return {"lamina": lamina, "ctranslate2": ct2, "transformers": hugging}


def agreement(found: list[list[int]], expected: list[list[int]]) -> float:
    """The share of sentences with the same tokens."""
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=32)
    parser.add_argument("--length", type=int, default=24, help="tokens of each target")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each search")
    parser.add_argument("--small", action="store_true", help="a network of a second, to see that it works")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    config = MARIAN if not options.small else MARIAN.__class__(**{**vars(MARIAN), **SMALL})
    net = theirs(config)
    ours = Net(config).eval()
    fitting.fit("transformer_base", ours, dict(net.state_dict()), "transformers")
    random = torch.Generator().manual_seed(1)
    lengths = torch.randint(8, 33, (options.sentences,), generator=random).tolist()
    rows = [[*torch.randint(2, config.vocabulary - 1, (n,), generator=random).tolist(), END] for n in lengths]
    with tempfile.TemporaryDirectory() as folder:
        threads = torch.get_num_threads()
        place = converted(net, Path(folder) / "model")
        translator = ctranslate2.Translator(str(place), compute_type="float32", inter_threads=1, intra_threads=threads)
        found = searches(net, decoder.prepare(ours), translator, rows, options.length)
        document: dict[str, Any] = {"threads": threads, "sentences": len(rows), "length": options.length, "searches": []}
        document["versions"] = {"torch": torch.__version__, "ctranslate2": ctranslate2.__version__}
        document["versions"]["transformers"] = transformers.__version__
        for beams in (1, BEAMS):
            document["searches"].append(row := compare(found, beams, len(rows) * options.length, options.seconds))
            print(f"{'greedy' if beams == 1 else f'beam {beams}':8}", end="")
            print("  ".join(f"{k} {v['tokens_per_s']:.0f} tokens/s (same {v['same']:.2f})" for k, v in row["of"].items()))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def compare(found: dict[str, Callable[[int], list[list[int]]]], beams: int, tokens: int, seconds: float) -> dict[str, Any]:
    expected = found["transformers"](beams)
    same = {name: agreement(run(beams), expected) for name, run in found.items()}
    times = take_turns({name: partial(run, beams) for name, run in found.items()}, seconds, least=3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    of = {name: {"tokens_per_s": round(tokens / s, 1), "same": same[name]} for name, s in medians.items()}
    return {"beams": beams, "of": of, "at": time.strftime("%Y-%m-%d")}


if __name__ == "__main__":
    sys.exit(main())
