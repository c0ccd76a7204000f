#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
"""Compares kvslim_run with kvpress, with KIVI's authors' routines and with gguf, on caches made here.

    pip install torch transformers kvpress==0.5.5 safetensors gguf
    pip download --no-deps --no-binary :all: minference==0.1.6.0   # carries KIVI's routines; unpack it
    python3 examples/kvslim_run/compare_torch.py build/examples/kvslim_run --minference MINFERENCE_SOURCE_FOLDER

Kept sets, codes and budgets must be equal; scores and values are printed as the largest difference relative to the
largest magnitude. Half of the caches have their cells in random order, with padding between them.
"""
import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import types
import warnings

import gguf
import kvpress
import torch
from safetensors.torch import load_file, save_file

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("--minference", required=True, help="unpacked source of minference 0.1.6.0")
arguments = parser.parse_args()
folder = tempfile.TemporaryDirectory()
T, WINDOW, LAYERS = 100, 16, 4
worst, failures, checks, sets = {}, 0, 0, 0
warnings.simplefilter("ignore")  # of KIVI's routines, under a newer torch


def check(name, same):
    global failures, checks
    checks += 1
    if not same:
        failures += 1
        print("DIFFERS:", name)


def measure(name, mine, theirs):
    worst[name] = max(worst.get(name, 0.0), ((mine.double() - theirs.double()).abs().max() / theirs.abs().max()).item())


class Cache:
    """K, V and queries of all tokens; as a file in order, or in cells of any order between padding."""

    def __init__(self, batch, kv_heads, group, dim, mixed, kind=torch.float32):
        self.k = torch.randn(batch, kv_heads, T, dim) * (0.5 + torch.rand(batch, kv_heads, T, 1)) + torch.randn(batch, kv_heads, 1, dim)
        self.v, self.q = torch.randn(batch, kv_heads, T, dim), torch.randn(batch, kv_heads * group, T, dim)
        self.k, self.v, self.q = (x.to(kind) for x in (self.k, self.v, self.q))
        tensors = {"k": self.k, "v": self.v, "q": self.q}
        self.cells = torch.arange(T)
        if mixed:
            all_cells = T + 11
            self.cells = torch.randperm(all_cells)[:T]  # where each token lies
            tensors |= {"positions": torch.zeros(batch, all_cells, dtype=torch.int64), "valid": torch.zeros(batch, all_cells, dtype=torch.bool)}
            tensors["positions"][:, self.cells], tensors["valid"][:, self.cells] = torch.arange(T), True
            for name in "kv":
                tensors[name] = torch.full((batch, kv_heads, all_cells, dim), float("nan"), dtype=kind)
                tensors[name][:, :, self.cells] = getattr(self, name)
        self.path = os.path.join(folder.name, "in.safetensors")
        save_file({name: x.contiguous() for name, x in tensors.items()}, self.path)

    def attention(self):
        logits = self.q @ self.k.repeat_interleave(self.q.shape[1] // self.k.shape[1], 1).transpose(2, 3) / math.sqrt(self.q.shape[3])
        return logits.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf")).softmax(-1)

    def run(self, **settings):
        out = os.path.join(folder.name, "out.safetensors")
        subprocess.run([arguments.program, self.path, "--out", out, "--settings", json.dumps(settings)], check=True, capture_output=True)
        return load_file(out)

    def kept(self, result):
        """Kept tokens of every row, as a mask [batch, head, token]."""
        stays = torch.zeros(self.k.shape[0] * self.k.shape[1], int(self.cells.max()) + 1, dtype=torch.bool)
        begins = result.get("kept_begins")
        rows = result["kept"].flatten().tensor_split(begins[1:-1]) if begins is not None else result["kept"].flatten(0, 1)
        for r, cells in enumerate(rows):
            stays[r, cells.long()] = True
        return stays[:, self.cells].view(*self.k.shape[:2], T)


def top(score, count):
    return torch.zeros_like(score, dtype=torch.bool).scatter_(2, score.topk(count, dim=-1).indices, True)


def method(name, **options):
    return {"name": name, "options": options}


def module_of(cache):
    config = types.SimpleNamespace(_attn_implementation="sdpa", num_hidden_layers=LAYERS, num_attention_heads=cache.q.shape[1])
    return types.SimpleNamespace(config=config, head_dim=cache.k.shape[3])


def presses(cache, label):
    """Scores and kept sets of kvpress's scorers."""
    global sets
    window = method("snapkv", window=WINDOW)
    recent = method("top_k", budget=40, recent=1)
    plain, ratio = method("top_k", budget=40), 0.6
    cases = {
        "knorm": (kvpress.KnormPress(ratio), dict(score="knorm", select=plain)),
        "keydiff": (kvpress.KeyDiffPress(ratio), dict(score="keydiff", select=plain)),
        "streaming_llm": (kvpress.StreamingLLMPress(ratio), dict(score="streaming_llm", select=plain)),
        "snapkv": (kvpress.SnapKVPress(ratio, window_size=WINDOW), dict(score=window, select=plain)),
        "tova": (kvpress.TOVAPress(ratio), dict(score="tova", shared={}, select=recent)),
        "h2o": (kvpress.ObservedAttentionPress(ratio), dict(score=method("h2o", per_query=True), select=plain)),
        "lagkv": (kvpress.LagKVPress(0.4, lag_size=16), dict(score=method("lagkv", lag=16), select=method("top_k", budget=60))),
        "curdkv": (kvpress.CURPress(ratio), dict(score="curdkv", select=plain)),
    }
    attention, hidden = cache.attention(), torch.zeros(1, T, 1)
    for name, (press, settings) in cases.items():
        theirs = press.score(module_of(cache), hidden, cache.k, cache.v, attention, {})
        result = cache.run(**settings, quant="dense_f32")
        check(f"{name}, {label}", torch.equal(cache.kept(result), top(theirs, settings["select"]["options"]["budget"])))
        sets += theirs.shape[0] * theirs.shape[1]
        mine = result["scores"][:, :, cache.cells]
        last = {"snapkv": WINDOW, "tova": 1}.get(name, 0)  # what is protected has another score
        if name != "streaming_llm":  # only their order means something
            measure("score of " + name, mine[..., : T - last], theirs[..., : T - last])
        if name == "snapkv":
            attend(cache, result)


def attend(cache, result):
    """`out` against attention in float64 over the rows that were written, both as the newest T queries."""
    group = cache.q.shape[1] // cache.k.shape[1]
    k, v = (result[name].double().repeat_interleave(group, 1) for name in "kv")
    seen = result["positions"].repeat_interleave(group, 1)[:, :, None] <= torch.arange(T)[None, None, :, None]
    first = int(seen.any(-1).int().argmax(-1).max())  # queries that see something everywhere
    logits = (cache.q.double() @ k.transpose(2, 3) / math.sqrt(k.shape[3])).masked_fill(~seen, float("-inf"))[:, :, first:]
    measure("attention", result["out"][:, :, first:], logits.softmax(-1) @ v)
    measure("lse", result["lse"][:, :, first:], logits.logsumexp(-1))


def budgets(cache, label):
    """AdaKV and PyramidKV of kvpress; the sequences are layers."""
    global sets
    heads, ratio = cache.k.shape[1], 0.6
    window = method("snapkv", window=WINDOW)
    attention, module = cache.attention(), module_of(cache)
    ada = cache.kept(cache.run(score=window, select=method("adakv", budget=40, safeguard="pin")))
    pyramid = cache.kept(cache.run(score=method("snapkv", window=8), select=method("pyramidkv", budget=40, layers=LAYERS, rule="kvpress", mean=40.0)))
    for layer in range(LAYERS):
        module.layer_idx = layer
        k, v, a = (x[layer : layer + 1] for x in (cache.k, cache.v, attention))
        kvpress.AdaKVPress(kvpress.SnapKVPress(ratio, window_size=WINDOW), 0.2).compress(module, torch.zeros(1, T, 1), k, v, a, {})
        stays = torch.ones(1, heads, T, dtype=torch.bool)
        stays[module.masked_key_indices] = False
        check(f"adakv, {label}, layer {layer}", torch.equal(ada[layer], stays[0]))
        press = kvpress.PyramidKVPress(ratio, window_size=8)
        score = press.score(module, torch.zeros(1, T, 1), k, v, a, {})
        check(f"pyramidkv, {label}, layer {layer}", torch.equal(pyramid[layer], top(score, press.get_layer_budget(module, T))[0]))
        sets += 2 * heads


def kivi(cache, label, authors):
    """Codes and values of KIVI; what is stored are tokens 0 to 95, their codes found from the values."""
    dim = cache.k.shape[3]
    group = 16 if dim % 32 else 32
    for bits in (2, 4, 8):
        options = method(f"kivi{bits}", group=32, value_group=group, residual=32, rounding="authors")
        result = cache.run(quant=options)
        for name, tokens, quantize, axis in (("k", 96, authors.quant_and_pack_kcache, 2), ("v", T - 32, authors.quant_and_pack_vcache, 3)):
            code, scale, low = quantize(getattr(cache, name)[:, :, :tokens].contiguous(), 32 if axis == 2 else group, bits)
            code = authors.unpack_tensor(code, bits, pack_dim=axis).float()
            scale, low = (x.float().repeat_interleave(32 if axis == 2 else group, axis).view(code.shape) for x in (scale, low))
            mine = result[name][:, :, :tokens]
            check(f"kivi{bits}'s codes of {name}, {label}", torch.equal(((mine - low) / scale).round(), code))
            check(f"kivi{bits}'s exact tail of {name}, {label}", torch.equal(result[name][:, :, tokens:], getattr(cache, name)[:, :, tokens:].float()))
            measure(f"kivi{bits}'s values", mine, code * scale + low)


def ggml(cache, label):
    for name in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0"):
        kind = gguf.GGMLQuantizationType[name.upper()]
        result = cache.run(quant="ggml_" + name)
        for side in "kv":
            rows = getattr(cache, side).float().numpy()
            theirs = gguf.quants.dequantize(gguf.quants.quantize(rows, kind), kind)
            check(f"ggml {name}, {side}, {label}", torch.equal(result[side], torch.from_numpy(theirs)))


def integers(cache):
    """int_per_token has no authors: the largest error in halves of the step that the row's range asks for."""
    for bits in (4, 8):
        result = cache.run(quant=f"int_per_token{bits}")
        for side in "kv":
            x = getattr(cache, side).float()
            step = (x.amax(-1) - x.amin(-1)) / (2**bits - 1)
            error = ((result[side] - x).abs().amax(-1) / (step / 2)).max().item()
            worst[f"int_per_token{bits}'s error / half a step"] = max(worst.get(f"int_per_token{bits}'s error / half a step", 0.0), error)


spec = importlib.util.spec_from_file_location("kivi", os.path.join(arguments.minference, "minference", "modules", "kivi.py"))
authors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(authors)
torch.manual_seed(0)
with torch.no_grad():
    for group in (1, 4, 8):
        for dim in (64, 80, 128):
            for mixed in (False, True):
                label = f"group {group}, head_dim {dim}, {'mixed' if mixed else 'in order'}"
                presses(Cache(2, 2, group, dim, mixed), label)
                budgets(Cache(LAYERS, 2, group, dim, mixed), label)
                for kind in (torch.float16, torch.bfloat16):
                    cache = Cache(1, 2, group, dim, mixed, kind)
                    if kind == torch.float16:
                        kivi(cache, label, authors)
                    if dim % 32 == 0:
                        ggml(cache, label)
                    integers(cache)
print(f"torch {torch.__version__}: {checks} comparisons, of {sets} kept sets and of codes, {failures} failures")
for name, x in worst.items():
    print(f"{name:40} {x:.2e}")
sys.exit(failures > 0)
