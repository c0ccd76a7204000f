#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
"""Makes the golden files. Nothing of kvslim takes part.

    pip install torch transformers kvpress==0.5.5 scikit-learn
    pip download --no-deps --no-binary :all: minference==0.1.6.0   # carries KIVI's and SnapKV's routines; unpack it
    python3 tests/golden/make.py OUT_FOLDER --kvpress --minference MINFERENCE_SOURCE_FOLDER

Every other option is a checkout of the repository that it names, at the commit in the golden's first line. Only the
golden files whose source is given are made.
"""
import argparse
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
import textwrap
import types
import typing

import numpy as np
import torch
import torch.nn as nn

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--minference", help="unpacked source of minference 0.1.6.0")
parser.add_argument("--snapkv", help="FasterDecoding/SnapKV")
parser.add_argument("--kvpress", action="store_true", help="use the installed kvpress 0.5.5")
parser.add_argument("--tova", help="schwartz-lab-NLP/TOVA")
parser.add_argument("--h2o", help="FMInference/H2O")
parser.add_argument("--adakv", help="FFY0/AdaKV")
parser.add_argument("--factory", help="Zefan-Cai/KVCache-Factory")
parser.add_argument("--lookm", help="SUSTechBruce/LOOK-M")
parser.add_argument("--cam", help="zyxxmu/cam")
parser.add_argument("--golden-stick", help="mindspore-ai/golden-stick")
parser.add_argument("--d2o", help="AIoT-MLSys-Lab/D2O")
parser.add_argument("--headkv", help="FYYFU/HeadKV")
parser.add_argument("--duo", help="mit-han-lab/duo-attention")
parser.add_argument("--lagkv", help="AI-Lab-China-Merchants-Bank/LagKV")
parser.add_argument("--kvzip", help="snu-mllab/KVzip")
parser.add_argument("--fastkvzip", help="Janghyun1230/FastKVzip")
parser.add_argument("--laq", help="noforit/Lookahead_Q-Cache")
parser.add_argument("--qfilters", help="NathanGodey/qfilters")
parser.add_argument("--dynamickv", help="DreamMr/DynamicKV")
parser.add_argument("--lazy", help="WeianMao/triattention, with LazyEviction/model")
parser.add_argument("--easykv", help="DRSY/EasyKV")
parser.add_argument("--windowkv", help="optim996/WindowKV")
parser.add_argument("--cake", help="antgroup/cakekv")
parser.add_argument("--quest", help="mit-han-lab/Quest")
parser.add_argument("--kvcrush", help="vllm-project/vllm, with vllm/v1/attention/backends/kvcrush.py")
parser.add_argument("--shadowkv", help="bytedance/ShadowKV")
parser.add_argument("--matryoshkakv", help="The-kamisato/MatryoshkaKV-cache")
parser.add_argument("--eigen", help="UtkarshSaxena1/EigenAttn")
parser.add_argument("--palu", help="shadowpa0327/Palu")
parser.add_argument("--zipcache", help="ThisisBillhe/ZipCache")
parser.add_argument("--kvquant", help="SqueezeAILab/KVQuant")
parser.add_argument("--cskv", help="wln20/CSKV")
parser.add_argument("--think", help="SalesforceAIResearch/ThinK")
parser.add_argument("--mustafar", help="dhjoo98/mustafar")
parser.add_argument("--xkv", help="abdelfattah-lab/xKV")
parser.add_argument("--gear", help="HaoKang-Timmy/GEAR")
parser.add_argument("--quarot", help="spcl/QuaRot")
parser.add_argument("--ggml", help="program that calls ggml's reference quantizers; ggml says how")
parser.add_argument("--turboquant", help="tonbistudio/turboquant-pytorch")
parser.add_argument("--torchao", action="store_true", help="use the installed torchao 0.18.0")
parser.add_argument("--kvcrush-pages", help="program that calls OpenVINO GenAI; kvcrush_pages says how")
arguments = parser.parse_args()
source, out = arguments.minference, arguments.out


def load(name):
    return load_file(os.path.join(source, "minference", "modules", name + ".py"))


def load_file(path):
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location("golden_" + name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Golden:
    def __init__(self, name, provenance):
        self.f = open(os.path.join(out, name + ".txt"), "w")
        self.f.write("# " + provenance + "; torch " + torch.__version__ + "\n")

    def put(self, name, tensor):
        a = tensor.detach().contiguous().flatten()
        if a.dtype == torch.float16:  # bit patterns
            words, kind = a.view(torch.int16).numpy().astype(np.uint16), "f16"
        elif a.dtype == torch.float32:
            words, kind = a.numpy().view(np.uint32), "f32"
        else:
            words, kind = a.to(torch.int64).numpy(), "int"
        self.f.write(f"{name} {kind} {len(words)}\n" + " ".join(format(int(w), "x") if kind != "int" else str(int(w)) for w in words) + "\n")


def kivi():
    m = load("kivi")
    g = Golden("kivi", "minference 0.1.6.0 minference/modules/kivi.py (routines of jy-yuan/KIVI quant/new_pack.py): quant_and_pack_kcache, "
               "quant_and_pack_vcache, unpack_tensor, unpack_and_dequant_*; seed 0, f16 [1,1,64,32], group 32, and where named 16 and 8; of 3, 5, 6 and 7 bits "
               "the first 32 tokens, not packed, groups 32, 16, 8 and 32, rows in f32")
    torch.manual_seed(0)
    k = (torch.randn(1, 1, 64, 32) * (1 + 4 * (torch.arange(32) % 7 == 2))).half()
    v = torch.randn(1, 1, 64, 32).half()
    g.put("k", k)
    g.put("v", v)
    for bits, group in ((2, 32), (4, 32), (8, 32), (2, 16), (4, 8)):
        name = str(bits) if group == 32 else f"{bits}_{group}"
        code, scale, mn = m.quant_and_pack_kcache(k, group, bits)
        g.put(f"k_code_{name}", m.unpack_tensor(code, bits, pack_dim=2))
        g.put(f"k_scale_{name}", scale)
        g.put(f"k_min_{name}", mn)
        g.put(f"k_value_{name}", m.unpack_and_dequant_kcache(code, scale, mn, group, bits))
        code, scale, mn = m.quant_and_pack_vcache(v, group, bits)
        g.put(f"v_code_{name}", m.unpack_tensor(code, bits, pack_dim=3))
        g.put(f"v_scale_{name}", scale)
        g.put(f"v_min_{name}", mn)
        g.put(f"v_value_{name}", m.unpack_and_dequant_vcache(code, scale, mn, group, bits))
    # Widths that their 32-bit words do not hold: the codes as they are before packing.
    m.pack_tensor = lambda code, bits, pack_dim: code
    for bits, group in ((3, 32), (5, 16), (6, 8), (7, 32)):
        for side, x, quantize in (("k", k, m.quant_and_pack_kcache), ("v", v, m.quant_and_pack_vcache)):
            for name, one in zip(("code", "scale", "min"), quantize(x[:, :, :32], group, bits)):
                g.put(f"{side}_{name}_{bits}", one)
        # One range for all channels of a token, in float.
        for name, one in zip(("code", "scale", "min"), m.quant_and_pack_vcache(v[:, :, :32].float(), 32, bits)):
            g.put(f"row_{name}_{bits}", one)


def snapkv_authors():
    m = load("snapkv")
    g = Golden("snapkv_authors", "minference 0.1.6.0 minference/modules/snapkv.py SnapKVCluster.update_kv (routine of FasterDecoding/SnapKV "
               "snapkv_utils.py); seed 1, H = G = 2, T 96, D 16, window 16, capacity 40, avgpool 5")
    torch.manual_seed(1)
    q, k = torch.randn(1, 2, 96, 16), torch.randn(1, 2, 96, 16)
    v = torch.arange(96).float().view(1, 1, 96, 1).expand(1, 2, 96, 16).contiguous()  # values carry their own index
    cluster = m.SnapKVCluster(window_size=16, max_capacity_prompt=40, kernel_size=5, pooling="avgpool")
    kept = cluster.update_kv(k, q, v, None, 1)[1][..., 0]
    g.put("q", q[:, :, -16:])
    g.put("k", k)
    g.put("kept", kept.sort(dim=-1)[0].long())


def snapkv_query_heads():
    m = load_file(os.path.join(arguments.snapkv, "snapkv/monkeypatch/snapkv_utils.py"))
    g = Golden("snapkv_query_heads", "FasterDecoding/SnapKV e216ddc snapkv/monkeypatch/snapkv_utils.py repeat_kv, SnapKVCluster.update_kv; seed 31, H 6, G 2, "
               "T 96, D 16, window 16, capacity 40, kernel 5, top-k stable")
    torch.manual_seed(31)
    torch.Tensor.topk, whole = lambda x, n, dim: types.SimpleNamespace(indices=x.sort(dim=dim, descending=True, stable=True)[1][..., :n]), torch.Tensor.topk
    q, k = torch.randn(1, 6, 96, 16), torch.randn(1, 2, 96, 16)
    v = torch.arange(96).float().view(1, 1, 96, 1).expand(1, 2, 96, 16).contiguous()  # values carry their own index
    g.put("q", q[:, :, -16:])
    g.put("k", k)
    for pooling in ("avgpool", "maxpool"):
        cluster = m.SnapKVCluster(window_size=16, max_capacity_prompt=40, kernel_size=5, pooling=pooling)
        kept = cluster.update_kv(m.repeat_kv(k, 3), q, m.repeat_kv(v, 3), None, 3)[1][..., 0]
        g.put("kept_" + pooling, kept.sort(dim=-1)[0].long())
    torch.Tensor.topk = whole  # maximum pooling makes ties


def presses():
    from kvpress import KeyRerotationPress, KnormPress, SnapKVPress, StreamingLLMPress
    from kvpress.utils import get_prerope_query_states
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding, rotate_half

    torch.manual_seed(2)
    H, G, T, D, W = 8, 2, 96, 16, 16
    config = LlamaConfig(hidden_size=H * D, num_attention_heads=H, num_key_value_heads=G, head_dim=D, attn_implementation="eager")
    module = LlamaAttention(config, 0).float()
    rotary = LlamaRotaryEmbedding(config)
    module.rotary_emb = rotary
    hidden = torch.randn(1, T, H * D) * 3
    cos, sin = rotary(hidden, torch.arange(T)[None])
    with torch.no_grad():
        k = module.k_proj(hidden).view(1, T, G, D).transpose(1, 2)
        k = k * cos[:, None] + rotate_half(k) * sin[:, None]
        v = torch.randn(1, G, T, D)
        q = get_prerope_query_states(module, hidden[:, -W:])
        q = q * cos[:, None, -W:] + rotate_half(q) * sin[:, None, -W:]
        snap = SnapKVPress(compression_ratio=0.5, window_size=W, kernel_size=5)
        score = snap.score(module, hidden, k, v, None, {"position_embeddings": (cos, sin)})
        g = Golden("snapkv", f"kvpress 0.5.5 SnapKVPress.score over a random transformers LlamaAttention; seed 2, H {H}, G {G}, T {T}, D {D}, window {W}, pool 5")
        g.put("q", q)
        g.put("k", k)
        g.put("score", score[..., : T - W])
        g.put("kept", score.topk(48, dim=-1).indices.sort(dim=-1)[0])
        score = KnormPress(0.5).score(module, hidden, k, v, None, {})
        g = Golden("knorm", "kvpress 0.5.5 KnormPress.score; the keys of snapkv.txt")
        g.put("score", score)
        g.put("kept", score.topk(48, dim=-1).indices.sort(dim=-1)[0])
        press = StreamingLLMPress(0.5, n_sink=4)
        score = press.score(module, hidden, k, v, None, {})
        kept = score.topk(48, dim=-1).indices.sort(dim=-1)[0]
        g = Golden("streaming_llm", "kvpress 0.5.5 StreamingLLMPress.score and KeyRerotationPress.rerotate_keys; the keys of snapkv.txt, rope base 10000")
        g.put("kept", kept)
        g.put("rerotated", KeyRerotationPress.rerotate_keys(module, kept, k))


def causal_attention(q, k):
    """Softmax of every query over the keys up to its own: [1, H, N, T], the N newest tokens asking."""
    n, t = q.shape[2], k.shape[2]
    logits = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(2, 3) / math.sqrt(q.shape[3])
    future = torch.arange(t)[None, :] > torch.arange(t - n, t)[:, None]
    return nn.functional.softmax(logits.masked_fill(future, float("-inf")), dim=-1, dtype=torch.float32)


def indices_as_values(heads, tokens, dim):
    """Values that carry their own index, so that what a routine keeps can be read off its output."""
    return torch.arange(tokens).float().view(1, 1, tokens, 1).expand(1, heads, tokens, dim).contiguous()


def keydiff():
    from kvpress import BlockPress, KeyDiffPress

    torch.manual_seed(10)
    G, T, D, B = 3, 80, 16, 16
    k = torch.randn(1, G, T, D) * (0.5 + torch.rand(1, G, T, 1)) + 2 * torch.randn(1, G, 1, D)
    press = KeyDiffPress(0.6)  # keeps int(80 * 0.4) = 32
    score = press.score(None, None, k, None, None, None)
    g = Golden("keydiff", f"kvpress 0.5.5 KeyDiffPress.score, ScorerPress.compress, BlockPress.compress; seed 10, G {G}, T {T}, D {D}, "
               f"kept 32, block {B}; make.py --kvpress")
    g.put("k", k)
    g.put("score", score)
    module = types.SimpleNamespace(head_dim=D)
    v, hidden = indices_as_values(G, T, D), torch.zeros(1, T, G)
    g.put("kept", press.compress(module, hidden, k, v, None, {})[1][..., 0].sort(dim=-1)[0].long())
    blocks = BlockPress(press, B)
    g.put("kept_blocks", blocks.compress(module, hidden, k, v, None, {})[1][..., 0].sort(dim=-1)[0].long())


def quest():
    # The file imports what it patches in transformers; of all that, forward calls only these two.
    models = types.ModuleType("models")
    models.LlamaAttention = models.MistralAttention = models.DynamicCache = nn.Module
    models.apply_rotary_pos_emb = lambda q, k, cos, sin, position_ids: (q, k)
    models.repeat_kv = lambda x, n: x.repeat_interleave(n, dim=1)
    names = ["transformers.models.llama.modeling_llama", "transformers.models.mistral.modeling_mistral",
             "transformers.cache_utils"]
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict.fromkeys(names, models))
    authors = load_file(os.path.join(arguments.quest, "evaluation", "quest_attention.py"))
    for name, module in before.items():
        sys.modules.pop(name)
        if module is not None:
            sys.modules[name] = module
    chosen = {}
    choose = authors.local_heavy_hitter_mask

    def remember(weights, budget, size):
        chosen["mask"] = choose(weights, budget, size)
        return chosen["mask"]

    authors.local_heavy_hitter_mask = remember
    torch.manual_seed(23)
    H, T, D, P, B = 3, 107, 16, 16, 64  # the newest page holds 11 tokens
    q, k, v = torch.randn(1, H, 1, D), torch.randn(1, H, T, D), torch.randn(1, H, T, D)
    k += 1.5 * torch.randn(1, H, (T + P - 1) // P, D).repeat_interleave(P, dim=2)[:, :, :T]
    flat = lambda x: (lambda _: x.transpose(1, 2).reshape(1, -1, H * D))
    layer = types.SimpleNamespace(
        layer_id=2, q_proj=flat(q), k_proj=flat(k[:, :, -1:]), v_proj=flat(v[:, :, -1:]), o_proj=lambda x: x,
        num_heads=H, num_key_value_heads=H, num_key_value_groups=1, head_dim=D, hidden_size=H * D, chunk_size=P,
        token_budget=B, rotary_emb=lambda x, positions: (None, None))
    out = authors.forward(layer, torch.zeros(1, 1, H * D), None, torch.tensor([[T - 1]]),
                          (k[:, :, :-1], v[:, :, :-1]))[0]
    g = Golden("quest", f"mit-han-lab/Quest 01c1623 evaluation/quest_attention.py forward; seed 23, "
               f"heads {H}, T {T}, D {D}, page {P}, budget {B}; make.py --quest")
    g.put("q", q)
    g.put("k", k)
    g.put("v", v)
    g.put("read", chosen["mask"][0, :, 0].long())
    g.put("out", out)


def lagkv():
    from kvpress import LagKVPress

    torch.manual_seed(19)
    G, T, D, S, L = 2, 103, 16, 4, 16  # six partitions, five of them scored, and three tokens
    k = torch.randn(1, G, T, D) * (0.5 + torch.rand(1, G, T, 1)) + 2 * torch.randn(1, G, 1, D)
    v = torch.randn(1, G, T, D) * (0.5 + torch.rand(1, G, T, 1))
    g = Golden("lagkv", f"AI-Lab-China-Merchants-Bank/LagKV 2a9d19e lag_kv.py LagKV.update; kvpress 0.5.5 LagKVPress.score; seed 19, G {G}, T {T}, "
               f"D {D}, sinks {S}, lag {L}; make.py --lagkv --kvpress")
    g.put("k", k)
    g.put("v", v)
    g.put("score", LagKVPress(n_sink=S, lag_size=L).score(None, None, k, v, None, None))
    g.put("score_across", LagKVPress(n_sink=S, lag_size=L, cross_scoring=True).score(None, None, k, v, None, None))
    g.put("score_short", LagKVPress(n_sink=S, lag_size=L).score(None, None, k[:, :, :35], v[:, :, :35], None, None))
    # Their cache, on the part of DynamicCache that it uses; tokens are told apart by their keys.
    path = os.path.join(arguments.lagkv, "lag_kv.py")
    text = open(path).read().replace("from transformers.cache_utils import DynamicCache", "")
    space = {"DynamicCache": type("DynamicCache", (), {
        "__init__": lambda self, _=None: self.__dict__.update(key_cache=[], value_cache=[], _seen_tokens=0)})}
    exec(compile(text, path, "exec"), space)
    for weight in (0, 1, 3):
        for percent in (25, 50):
            cache = space["LagKV"](ratio=percent / 100, sink_size=S, lag_size=L, score_v_ratio=weight)
            cache.update(k.clone(), v.clone(), 0)  # it moves tokens in place
            kept = [[(k[0, h] == row).all(-1).nonzero().item() for row in cache.key_cache[0][0, h]] for h in range(G)]
            g.put(f"kept_{weight}_{percent}", torch.tensor(kept).sort(dim=-1)[0])


def qfilters():
    from kvpress import QFilterPress

    torch.manual_seed(20)
    L, G, T, D, W = 2, 2, 70, 16, 8
    filters = nn.functional.normalize(torch.randn(L, G, D), dim=-1)
    k = torch.randn(L, G, T, D) * (0.5 + torch.rand(L, G, T, 1)) + torch.randn(L, G, 1, D)
    g = Golden("qfilters", f"NathanGodey/qfilters cda5c38 src/hf_cache.py QFiltersCache.update; kvpress 0.5.5 QFilterPress.score; seed 20, layers {L}, "
               f"G {G}, T {T}, D {D}; the cache: length 24, window {W}, a prompt of 40 and tokens by one; make.py --qfilters --kvpress")
    g.put("filters", filters)
    g.put("k", k)
    press = QFilterPress(0.5)
    press.q_filters = filters
    g.put("score", torch.stack([press.score(types.SimpleNamespace(layer_idx=l), None, k[l : l + 1], None, None, None)[0] for l in range(L)]))
    sys.path.insert(0, arguments.qfilters)
    from src.hf_cache import QFiltersCache

    v = indices_as_values(G, T, D)
    for name, end in (("kept_prompt", 40), ("kept", T)):
        kept = []
        for l in range(L):
            cache = QFiltersCache.__new__(QFiltersCache)  # transformers' Cache wants layers by now, this one uses none
            cache.key_cache, cache.value_cache, cache.max_length, cache.window_length = [k[l : l + 1, :, :0]] * L, [v[:, :, :0]] * L, 24, W
            cache.q_filters = filters
            for a, b in [(0, 40)] + [(t, t + 1) for t in range(40, end)]:
                cache.update(k[l : l + 1, :, a:b], v[:, :, a:b], l)
            kept.append(cache.value_cache[l][0, :, :, 0].long())
        g.put(name, torch.stack(kept))


def expected_attention():
    from kvpress import ExpectedAttentionPress, ExpectedAttentionStatsPress

    torch.manual_seed(21)
    H, G, T, D = 4, 2, 60, 16
    q, k, v = torch.randn(1, H, T, D) + 1.5 * torch.randn(1, H, 1, D), torch.randn(1, G, T, D), torch.randn(1, G, T, D)

    def rotary(x, positions):  # LlamaRotaryEmbedding, base 10000, with angles in double
        angle = positions[..., None].double() * 10000.0 ** (-torch.arange(0, D, 2).double() / D)
        angle = torch.cat([angle, angle], -1)
        return angle.cos().float(), angle.sin().float()

    module = types.SimpleNamespace(
        config=types.SimpleNamespace(num_attention_heads=H, num_key_value_heads=G), head_dim=D, layer_idx=0, rotary_emb=rotary,
        q_proj=lambda h: h)  # hidden states are the queries themselves
    hidden = q.transpose(1, 2).reshape(1, T, H * D)
    g = Golden("expected_attention", f"kvpress 0.5.5 ExpectedAttentionPress.score, ExpectedAttentionStatsPress.score; seed 21, H {H}, G {G}, T {T}, "
               f"D {D}, rope base 10000; make.py --kvpress")
    g.put("q", q)
    g.put("k", k)
    g.put("v", v)
    cases = {"default": {}, "mean": {"use_covariance": False, "n_sink": 0}, "no_norm": {"use_vnorm": False, "n_future_positions": 7},
             "epsilon": {"epsilon": 0.02, "n_sink": 1, "n_future_positions": 1}}
    for name, options in cases.items():
        press = ExpectedAttentionPress(0.5, **options)
        score = press.score(module, hidden, k, v, None, {})
        g.put("score_" + name, score)
        g.put("kept_" + name, score.topk(30, dim=-1).indices.sort(dim=-1)[0])
    press = ExpectedAttentionStatsPress(0.5)
    press.mu, press.cov = torch.randn(1, H, D), torch.randn(1, H, D, D)
    press.cov = press.cov @ press.cov.transpose(2, 3) / D
    g.put("mean", press.mu)
    g.put("covariance", press.cov)
    g.put("score_stats", press.score(module, hidden, k, v, None, {}))


def finch():
    from kvpress import FinchPress

    torch.manual_seed(23)
    H, G, T, D, W = 4, 2, 80, 16, 12
    q, k = torch.randn(1, H, W, D) * 2, torch.randn(1, G, T, D)
    config = types.SimpleNamespace(num_attention_heads=H, num_key_value_heads=G)
    inverse = 10000.0 ** (-torch.arange(0, D, 2).float() / D)
    module = types.SimpleNamespace(config=config, head_dim=D, q_proj=lambda h: h, rotary_emb=types.SimpleNamespace(inv_freq=inverse))
    hidden = q.transpose(1, 2).reshape(1, W, H * D)  # hidden states are the queries themselves
    still = {"position_embeddings": (torch.ones(1, W, D), torch.zeros(1, W, D))}
    g = Golden("finch", f"kvpress 0.5.5 FinchPress.score, compress; seed 23, H {H}, G {G}, T {T}, D {D}, question {W}, kept 30, rope base 10000; "
               "make.py --kvpress")
    g.put("q", q)
    g.put("k", k)
    for name, normalized in (("", True), ("_plain", False)):
        press = FinchPress(0.625, normalize_scores=normalized)
        press.window_size = W
        g.put("score" + name, press.score(module, hidden, k, None, None, still)[..., : T - W])
        keys, kept = press.compress(module, hidden, k, indices_as_values(G, T, D), None, still)
        g.put("kept" + name, kept[..., 0].long())
        g.put("keys" + name, keys)


def curdkv():
    from kvpress import CURPress

    torch.manual_seed(24)
    G, T, D = 2, 75, 16
    k, v = (torch.randn(1, G, T, D) * (0.5 + torch.rand(1, G, T, 1)) for _ in range(2))
    g = Golden("curdkv", f"kvpress 0.5.5 CURPress.score; seed 24, G {G}, T {T}, D {D}, kept 30; make.py --kvpress")
    g.put("k", k)
    g.put("v", v)
    cases = {kind: {"leverage_type": kind} for kind in ("kv_product", "key", "value", "kv_avg")}
    cases |= {"global": {"use_local_approximation": False, "num_sinks": 2}, "window_7": {"local_window_size": 7}}
    for name, options in cases.items():
        score = CURPress(0.6, **options).score(None, None, k.clone(), v.clone(), None, None)
        g.put("score_" + name, score)
        g.put("kept_" + name, score.topk(30, dim=-1).indices.sort(dim=-1)[0])


def criticalkv():
    from kvpress import CriticalKVPress, KnormPress, SnapKVPress

    torch.manual_seed(25)
    H, G, T, D, M, W = 4, 2, 80, 16, 40, 8
    q, k = torch.randn(1, H, W, D) * 2, torch.randn(1, G, T, D)
    v = torch.randn(1, G, T, D) * (0.25 + torch.rand(1, G, T, 1))
    weight = torch.randn(M, H * D) / 8
    module = types.SimpleNamespace(
        config=types.SimpleNamespace(num_attention_heads=H, num_key_value_heads=G, head_dim=D, hidden_size=M), head_dim=D,
        num_key_value_groups=H // G, q_proj=lambda h: h, o_proj=types.SimpleNamespace(weight=weight))
    hidden = torch.cat([torch.zeros(1, T - W, H * D), q.transpose(1, 2).reshape(1, W, H * D)], 1)  # the queries themselves
    still = {"position_embeddings": (torch.ones(1, T, D), torch.zeros(1, T, D))}
    g = Golden("criticalkv", f"kvpress 0.5.5 CriticalKVPress.vwl1norm, score over SnapKVPress and KnormPress; seed 25, H {H}, G {G}, T {T}, D {D}, "
               f"width {M}, window {W}, pool 5, kept 30; make.py --kvpress")
    for name, x in (("q", q), ("k", k), ("v", v), ("weight", weight), ("norms", CriticalKVPress.vwl1norm(v, module))):
        g.put(name, x)
    for name, base in (("snapkv", SnapKVPress(0.625, window_size=W)), ("knorm", KnormPress(0.625))):
        for percent in (50, 10):
            score = CriticalKVPress(base, first_stage_ratio=percent / 100).score(module, hidden, k, v, None, still)
            g.put(f"score_{name}_{percent}", score)
            g.put(f"kept_{name}_{percent}", score.topk(30, dim=-1).indices.sort(dim=-1)[0])


def fastkvzip():
    """The authors' gate, what kvpress protects of its scores, and what it removes of two layers."""
    from kvpress import FastKVzipPress
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    torch.manual_seed(41)
    layers, G, R, M, T, dim, sinks = 2, 2, 3, 24, 60, 16, 16
    text = open(os.path.join(arguments.fastkvzip, "prefill", "attention", "gate.py")).read()
    text = text[text.index("class Weight(nn.Module)"):text.index("def load_fastkvzip")]
    names = {"torch": torch, "nn": nn, "math": math, "Qwen3RMSNorm": Qwen3RMSNorm}
    exec(text, names)
    gates = [names["Weight"](l, M, dim, G, R, torch.float32, sink=sinks) for l in range(layers)]
    with torch.no_grad():
        for gate in gates:
            for one in gate.parameters():
                one.copy_(torch.randn(one.shape) * (0.5 if one.dim() < 3 else 1.5) + (1 if one.dim() == 1 and one.shape[0] == dim else 0))
        hidden = torch.randn(layers, 1, T, M)
        g = Golden("fastkvzip", f"Janghyun1230/FastKVzip 7d78b34 prefill/attention/gate.py Weight.forward, kvpress 0.5.5 FastKVzipPress._score_fast and "
                   f"compress_post of 0.6; seed 41, {layers} layers, G {G}, {R} query heads each, width {M}, T {T}, {sinks} sinks of {dim}; "
                   "make.py --fastkvzip --kvpress")
        g.put("hidden", hidden)
        for name, one in (("query", "q_proj.weight"), ("query_bias", "q_proj.bias"), ("query_gain", "q_norm.weight"), ("key", "k_proj.weight"),
                          ("key_gain", "k_norm.weight"), ("sinks", "k_base"), ("offset", "b")):
            g.put(name, torch.stack([gate.get_parameter(one) for gate in gates]))
        g.put("score", torch.stack([gate(x) for gate, x in zip(gates, hidden)]))
        press = FastKVzipPress(compression_ratio=0.6)
        press.gates, press.score_val = gates, [None] * layers
        config = types.SimpleNamespace(_attn_implementation="sdpa")
        modules = [types.SimpleNamespace(layer_idx=l, config=config) for l in range(layers)]
        for module, x in zip(modules, hidden):
            press._score_fast(module, x)
        g.put("protected", torch.stack(press.score_val) == 1)
        press.compress_post(types.SimpleNamespace(model=types.SimpleNamespace(layers=[types.SimpleNamespace(self_attn=m) for m in modules])))
    kept = torch.ones(layers, G, T, dtype=torch.bool)
    for l, module in enumerate(modules):
        kept[l, module.masked_key_indices[1], module.masked_key_indices[2]] = False
    g.put("kept", kept)


def chunked():
    from kvpress import ChunkPress, CURPress, KeyDiffPress, KnormPress

    torch.manual_seed(42)
    G, T, D, size = 2, 70, 16, 16
    k = torch.randn(1, G, T, D) * (0.5 + torch.rand(1, G, T, 1)) + 2 * torch.randn(1, G, 1, D)
    v = indices_as_values(G, T, D)
    g = Golden("chunked", f"kvpress 0.5.5 ChunkPress.compress over KnormPress, KeyDiffPress and CURPress of keys without sinks; seed 42, "
               f"G {G}, T {T}, D {D}, chunks of {size}; make.py --kvpress")
    g.put("k", k)
    hidden, module = torch.zeros(1, T, D), types.SimpleNamespace(head_dim=D)
    for percent in (30, 62, 95):
        for name, press in (("knorm", KnormPress), ("keydiff", KeyDiffPress),
                            ("curdkv", lambda ratio: CURPress(ratio, num_sinks=0, leverage_type="key"))):
            kept = ChunkPress(press(percent / 100), chunk_length=size).compress(module, hidden, k, v, None, {})[1][..., 0]
            g.put(f"kept_{name}_{percent}", kept.sort(dim=-1)[0].long())


def laq():
    torch.manual_seed(26)
    H, T, D, N = 3, 90, 16, 8
    q, k = torch.randn(1, H, 2 * N, D), torch.randn(1, H, T, D)
    # Their mask hides the newest keys from queries that may see them. So that it hides nothing, no query looks at these.
    q[..., 0], k[:, :, -2 * N :, 0] = 30, -30
    path = os.path.join(arguments.laq, "pyramidkv", "pyramidkv_utils.py")
    source = open(path).read()
    begin = source.index("class SnapKVCluster")
    text = "".join(line for line in source[begin : source.index("class L2NormCluster")].splitlines(True) if "print(" not in line)
    space = {"torch": torch, "nn": nn, "F": nn.functional, "math": math}
    exec(compile(text, path, "exec"), space)
    g = Golden("laq", f"noforit/Lookahead_Q-Cache 74612bd pyramidkv/pyramidkv_utils.py SnapKVCluster.update_kv_LAQ; seed 26, H = G = {H}, T {T}, D {D}, "
               f"pseudo queries {N}, capacity 40, pool 7; make.py --laq")
    g.put("q", q)
    g.put("k", k)
    for window in (8, 0):
        for pooling in ("maxpool", "avgpool"):
            cluster = space["SnapKVCluster"](window_size=window, max_capacity_prompt=40, kernel_size=7, pooling=pooling, lookahead_size=N)
            kept = cluster.update_kv_LAQ(k, q, indices_as_values(H, T, D), None, 1)[1][..., 0].long()
            g.put(f"kept_{pooling}_{window}", kept.sort(dim=-1)[0])


def kvzip():
    from kvpress import KVzipPress

    torch.manual_seed(22)
    H, G, T, D, S = 4, 2, 70, 16, 6  # a system prompt of S tokens, then two stretches
    stretches = [(6, 38, 40), (38, 70, 44)]  # tokens from, up to, and what repeats them
    k = torch.randn(1, G, T, D)
    q, own = torch.randn(1, H, 84, D) * 2, torch.randn(1, G, 84, D)
    g = Golden("kvzip", f"snu-mllab/KVzip 5d84729 attention/score.py KVScore._get_score, _threshold_uniform; kvpress 0.5.5 KVzipPress.score_kvzip; "
               f"seed 22, H {H}, G {G}, T {T}, D {D}, system prompt {S}, stretches {stretches}; make.py --kvzip --kvpress")
    g.put("q", q)
    g.put("own", own)
    g.put("k", k)
    score = load_file(os.path.join(arguments.kvzip, "attention", "score.py")).KVScore()
    score.n_heads_kv, score.n_layers, score.dtype, score.device, score.sink = G, 1, torch.float32, "cpu", S
    score.init_score()
    press = KVzipPress(0.5)
    press.score_val = torch.zeros(1, 1, G, T)
    module = types.SimpleNamespace(
        config=types.SimpleNamespace(num_attention_heads=H, num_key_value_heads=G), head_dim=D, layer_idx=0, q_proj=lambda h: h)
    first = 0
    for begin, end, n in stretches:
        queries, keys = q[:, :, first : first + n], torch.cat([k, own[:, :, first : first + n]], 2)
        score.start_idx, score.end_idx = begin, end
        score._get_score(queries, keys, 0)
        press.start_idx, press.end_idx, press.context_length, press.causal_mask_score = begin, end, T, None
        hidden = queries.transpose(1, 2).reshape(1, n, H * D)  # hidden states are the queries themselves
        still = (torch.ones(1, n, D), torch.zeros(1, n, D))
        press.score_kvzip(module, hidden, keys, keys, None, {"position_embeddings": still})
        first += n
    g.put("score", score.score[0])
    g.put("score_kvpress", press.score_val[0])
    valid, _ = score._threshold_uniform(score.score, 0.375)  # 24 of 64
    g.put("kept", torch.stack([valid[0, 0, h].nonzero()[:, 0] + S for h in range(G)]))


class ListCache:
    """The part of the DynamicCache of transformers 4.36 that the authors' caches build on."""

    def __init__(self):
        self.key_cache, self.value_cache = [], []

    def update(self, k, v, layer):
        if len(self.key_cache) <= layer:
            self.key_cache.append(k)
            self.value_cache.append(v)
        else:
            self.key_cache[layer] = torch.cat([self.key_cache[layer], k], dim=2)
            self.value_cache[layer] = torch.cat([self.value_cache[layer], v], dim=2)
        return self.key_cache[layer], self.value_cache[layer]


def tova():
    from kvpress import TOVAPress
    from transformers import cache_utils

    whole, cache_utils.DynamicCache = cache_utils.DynamicCache, ListCache
    authors = load_file(os.path.join(arguments.tova, "src", "tova_cache.py"))
    cache_utils.DynamicCache = whole

    torch.manual_seed(11)
    H, G, T, S, D, C = 4, 2, 48, 16, 16, 16
    q, k = torch.randn(1, H, T + S, D), torch.randn(1, G, T + S, D) * 1.5
    v = indices_as_values(G, T + S, D)
    g = Golden("tova", f"schwartz-lab-NLP/TOVA 9c7d09b src/tova_cache.py TOVACache.reduce, and kvpress 0.5.5 TOVAPress.score; "
               f"seed 11, H {H}, G {G}, prompt T {T}, decode steps {S}, D {D}, capacity {C}; make.py --tova --kvpress")
    g.put("q", q)
    g.put("k", k)
    attention = causal_attention(q[:, :, :T], k[:, :, :T])
    press = TOVAPress(2 / 3).score(None, None, k[:, :, :T], None, attention, {})
    g.put("kvpress_score", press[:, 0])  # the same for every head
    g.put("kvpress_kept", press[0, 0].topk(C).indices.sort()[0])
    g.put("score", attention[0, :, -1].mean(0))
    cache, kept = authors.TOVACache(C), []
    for step in range(S + 1):
        new = slice(0, T) if step == 0 else slice(T + step - 1, T + step)
        keys, _ = cache.update(k[:, :, new], v[:, :, new], 0)
        cache.reduce(0, causal_attention(q[:, :, new], keys))
        kept.append(cache.value_cache[0][0, :, :, 0].long())
        assert (kept[-1][0] == kept[-1][1]).all()
    kept = torch.stack(kept)[:, 0]
    assert (kept[1:, -1] != torch.arange(T, T + S)).any()  # the authors' rule drops a newest token somewhere
    g.put("kept", kept)


class Given(nn.Module):
    """An attention module of the authors whose projections pass on the queries, keys and values of its input."""

    @staticmethod
    def make(kind, heads, dim, **rest):
        module = kind.__new__(kind)
        nn.Module.__init__(module)
        size = heads * dim
        module.num_heads, module.head_dim, module.hidden_size = heads, dim, size
        module.num_key_value_heads, module.num_key_value_groups = heads, 1
        module.q_proj, module.k_proj, module.v_proj = (Given(i * size, size) for i in range(3))
        module.o_proj = nn.Identity()
        module.rotary_emb = lambda x, seq_len: (None, None)
        for name, value in rest.items():
            setattr(module, name, value)
        return module

    def __init__(self, begin, size):
        super().__init__()
        self.begin, self.size = begin, size

    def forward(self, hidden):
        return hidden[..., self.begin : self.begin + self.size]

    @staticmethod
    def hidden(q, k, v):
        return torch.cat([x.transpose(1, 2).flatten(2) for x in (q, k, v)], dim=-1)


def h2o():
    torch.manual_seed(12)
    H, T, S, D, heavy, recent = 3, 40, 16, 16, 8, 8
    q, k = torch.randn(1, H, T + S, D), torch.randn(1, H, T + S, D) * 1.5
    v = indices_as_values(H, T + S, D)
    steps = [slice(0, T)] + [slice(t, t + 1) for t in range(T, T + S)]

    # What drops tokens for good.
    drop = load_file(os.path.join(arguments.h2o, "h2o_hf", "utils_real_drop", "modify_llama.py"))
    drop.apply_rotary_pos_emb_single = lambda x, cos, sin, position_ids: x
    cache = drop.H2OKVCache_LayerWise(hh_size=heavy, recent_size=recent)
    layer = Given.make(drop.H2OLlamaAttention, H, D, kv_cache=cache, config=types.SimpleNamespace(pretraining_tp=1))
    g = Golden("h2o", f"FMInference/H2O ac75c2a h2o_hf/utils_real_drop/modify_llama.py H2OLlamaAttention.forward with "
               f"H2OKVCache_LayerWise; seed 12, H = G = {H}, prompt T {T}, decode steps {S}, D {D}, heavy {heavy}, recent {recent}; "
               "make.py --h2o")
    g.put("q", q)
    g.put("k", k)
    past, kept, scores = None, [], []
    for new in steps:
        positions = torch.arange(T + S)[None, new]
        _, _, past = layer(Given.hidden(q[:, :, new], k[:, :, new], v[:, :, new]), None, positions, past, use_cache=True)
        kept.append(past[1][0, :, :, 0].long())
        scores.append(cache.hh_score)
    g.put("prompt_score", causal_attention(q[:, :, :T], k[:, :, :T]).sum(2))
    g.put("kept", torch.stack(kept))
    g.put("score", torch.stack(scores))

    # What hides tokens behind a mask.
    mask = load_file(os.path.join(arguments.h2o, "h2o_hf", "utils_hh", "modify_llama.py"))
    mask.apply_rotary_pos_emb = lambda q, k, cos, sin, position_ids: (q, k)
    layer = Given.make(mask.LlamaAttention_heavy_hitter, H, D, heavy_budget_ratio=heavy / T, recent_budget_ratio=recent / T,
                       cache_budget_records=[], input_length=[])
    layer._reset_masks()
    g = Golden("h2o_simulated", f"FMInference/H2O ac75c2a h2o_hf/utils_hh/modify_llama.py LlamaAttention_heavy_hitter.forward; "
               f"q and k of h2o.txt, ratios {heavy}/{T} and {recent}/{T}; make.py --h2o")
    past, visible, scores = None, [], []
    for new in steps:
        future = torch.arange(T)[None, :] > torch.arange(T)[:, None]
        causal = torch.zeros(1, 1, T, T).masked_fill(future, torch.finfo(torch.float32).min) if past is None else None
        _, _, past = layer(Given.hidden(q[:, :, new], k[:, :, new], v[:, :, new]), causal, None, past, use_cache=True)
        seen = layer.attention_masks_next[0, :, 0]
        visible.append(nn.functional.pad(seen, (0, T + S + 1 - seen.shape[1])).long())
        scores.append(nn.functional.pad(layer.previous_scores, (0, T + S - layer.previous_scores.shape[1])))
    assert (layer.heavy_budget, layer.recent_budget) == (heavy, recent)
    g.put("visible", torch.stack(visible))
    g.put("score", torch.stack(scores))


def h2o_grouped():
    from kvpress import ObservedAttentionPress

    factory = load_file(os.path.join(arguments.factory, "pyramidkv", "pyramidkv_utils.py"))
    torch.manual_seed(13)
    H, G, T, D, C, W = 4, 2, 48, 16, 16, 8
    q, k = torch.randn(1, H, T, D), torch.randn(1, G, T, D) * 1.5
    v = indices_as_values(G, T, D)
    g = Golden("h2o_grouped", f"Zefan-Cai/KVCache-Factory c97f9d7 pyramidkv/pyramidkv_utils.py H2OKVCluster.update_kv, and kvpress 0.5.5 "
               f"ObservedAttentionPress.score; seed 13, H {H}, G {G}, T {T}, D {D}, capacity {C}, recent {W}; make.py --kvpress --factory")
    g.put("q", q)
    g.put("k", k)
    for how in ("mean", "max", "sum"):
        cluster = factory.H2OKVCluster(window_size=W, max_capacity_prompt=C, gqa_score_agg=how)
        g.put("kept_" + how, cluster.update_kv(k, q, v, None, H // G)[1][..., 0].sort(dim=-1)[0].long())
    score = ObservedAttentionPress(0.5).score(None, None, k, None, causal_attention(q, k), {})
    g.put("kvpress_score", score)
    g.put("kvpress_kept", score.topk(C, dim=-1).indices.sort(dim=-1)[0])


def adakv():
    from kvpress import AdaKVPress, SnapKVPress

    sys.modules["flash_attn"] = types.SimpleNamespace(flash_attn_func=None)  # imported, not called
    authors = load_file(os.path.join(arguments.adakv, "adaptive_snapkv", "monkeypatch", "snapkv_utils.py"))
    factory = load_file(os.path.join(arguments.factory, "pyramidkv", "pyramidkv_utils.py"))

    torch.manual_seed(14)
    H, G, T, D, W, C = 6, 3, 64, 16, 8, 24  # C holds the window: 16 of the prefix per head
    q = torch.randn(1, H, T, D) * torch.tensor([0.5, 0.5, 1.2, 1.2, 2.5, 2.5]).view(1, H, 1, 1)  # even to peaked
    k, v = torch.randn(1, G, T, D), indices_as_values(G, T, D)
    g = Golden("adakv", f"FFY0/AdaKV efe4e2e adaptive_snapkv/monkeypatch/snapkv_utils.py AdaptiveSnapKVCluster.update_kv, "
               f"Zefan-Cai/KVCache-Factory c97f9d7 pyramidkv/pyramidkv_utils.py AdaKVCluster.update_kv where normalized, kvpress 0.5.5 "
               f"AdaKVPress.compress where named; seed 14, H {H}, G {G}, T {T}, D {D}, window {W}, capacity {C}, maxpool 7, group mean, stable sort; "
               "make.py --adakv --factory --kvpress")
    g.put("q", q[:, :, -W:])
    g.put("k", k)

    def put(name, cluster):
        # Max pooling makes ties, which torch may order as it likes; here the lower index wins.
        torch.Tensor.sort, whole = lambda x, dim, descending: torch.sort(x, dim=dim, descending=descending, stable=True), torch.Tensor.sort
        kept = cluster.update_kv(k, q, v)[1][:, 0].split(cluster.head_lens.tolist())
        torch.Tensor.sort = whole
        g.put("length_" + name, cluster.head_lens)
        g.put("kept_" + name, torch.cat([head.sort()[0].long() for head in kept]))

    def ada(alpha, **rest):
        options = dict(window_size=W, base_capacity=C, kernel_size=7, pooling="maxpool", floor_alpha=alpha, skip=0, layer_idx=0,
                       gqa_support=True, num_key_value_groups=H // G, gqa_func="mean")
        return authors.AdaptiveSnapKVCluster(**{**options, **rest})

    g.put("score", ada(0.2).calcul_attn_sore(k.repeat_interleave(H // G, 1), q))
    for percent in (0, 20, 50, 100):
        put(str(percent), ada(percent / 100))
    put("20_max", ada(0.2, gqa_func="max"))
    put("20_avgpool", ada(0.2, pooling="avgpool", kernel_size=5))
    # One capacity for every query head, whose keys are repeated.
    put("20_heads", ada(0.2, gqa_support=False))
    put("20_normalized", factory.AdaKVCluster(window_size=W, kernel_size=7, pooling="maxpool", max_capacity_prompt=C, floor=0.2, normalize=True,
                                              layer_idx=0))

    # kvpress pins what a head may not lose, and keeps score and window as SnapKVPress has them (average pooling).
    module = types.SimpleNamespace(config=types.SimpleNamespace(_attn_implementation="sdpa", num_attention_heads=H))
    hidden, attention = torch.zeros(1, T, H * D), causal_attention(q, k)
    snap = SnapKVPress(0.625, window_size=W, kernel_size=5)  # keeps int(64 * 0.375) = 24
    g.put("kvpress_score", snap.score(module, hidden, k, v, attention, {})[..., : T - W])
    for percent in (0, 20, 80, 100):
        AdaKVPress(snap, percent / 100).compress(module, hidden, k, v, attention, {})
        stays = torch.ones(G, T, dtype=torch.bool)
        stays[module.masked_key_indices[1:]] = False
        g.put(f"kvpress_length_{percent}", stays.sum(1))
        g.put(f"kvpress_kept_{percent}", torch.nonzero(stays)[:, 1])


def pyramidkv():
    from kvpress import PyramidKVPress

    factory = load_file(os.path.join(arguments.factory, "pyramidkv", "pyramidkv_utils.py"))
    torch.manual_seed(15)
    H, G, T, D, W, C, L, beta = 4, 2, 96, 16, 8, 24, 4, 20
    q, k, v = torch.randn(1, H, T, D) * 1.5, torch.randn(1, G, T, D), indices_as_values(G, T, D)
    g = Golden("pyramidkv", f"Zefan-Cai/KVCache-Factory c97f9d7 pyramidkv/pyramidkv_utils.py PyramidKVCluster.update_kv, and kvpress 0.5.5 "
               f"PyramidKVPress.get_layer_budget where named; seed 15, H {H}, G {G}, T {T}, D {D}, window {W}, capacity {C}, layers {L}, beta {beta}, "
               "avgpool 5; make.py --factory --kvpress")
    g.put("q", q[:, :, -W:])
    g.put("k", k)
    kept = []
    for layer in range(L):
        cluster = factory.PyramidKVCluster(num_hidden_layers=L, window_size=W, max_capacity_prompt=C, beta=beta, layer_idx=layer)
        kept.append(cluster.update_kv(k, q, v, None, H // G)[1][0, :, :, 0].sort(dim=-1)[0].long())
    g.put("length", torch.tensor([x.shape[1] for x in kept]))
    g.put("kept", torch.cat([x.flatten() for x in kept]))

    # Budgets alone: layers, capacity with the window, window, beta, tokens; then tokens kept per layer, window included.
    cases = [(4, 40, 8, 20, 200), (4, 40, 8, 20, 64), (4, 40, 8, 20, 63), (4, 40, 8, 20, 40), (4, 40, 8, 20, 39), (4, 40, 8, 20, 70),
             (4, 40, 8, 20, 72), (8, 48, 16, 5, 300), (7, 33, 8, 3, 90), (32, 128, 8, 20, 5000), (32, 320, 64, 20, 2048), (5, 24, 8, 1, 500),
             (2, 20, 4, 30, 100)]
    g.put("cases", torch.tensor(cases))
    lengths = []
    for layers, capacity, window, beta, tokens in cases:
        x = torch.randn(1, 1, tokens, 2)
        for layer in range(layers):
            cluster = factory.PyramidKVCluster(num_hidden_layers=layers, window_size=window, max_capacity_prompt=capacity, beta=beta,
                                               layer_idx=layer)
            lengths.append(cluster.update_kv(x, x, x, None, 1)[1].shape[2])
    g.put("case_lengths", torch.tensor(lengths))

    # The same of kvpress, whose budget is a share: layers, percent removed, window, beta, tokens.
    cases = [(4, 50, 64, 20, 4096), (4, 80, 8, 20, 2000), (4, 80, 8, 20, 200), (8, 30, 16, 5, 300), (7, 75, 8, 3, 90), (32, 90, 64, 20, 5000),
             (32, 60, 64, 20, 2048), (5, 50, 8, 1, 500), (3, 90, 8, 20, 100), (6, 25, 8, 20, 77)]
    g.put("kvpress_cases", torch.tensor(cases))
    lengths = []
    for layers, percent, window, beta, tokens in cases:
        press = PyramidKVPress(percent / 100, window_size=window, beta=beta)
        for layer in range(layers):
            module = types.SimpleNamespace(layer_idx=layer, config=types.SimpleNamespace(num_hidden_layers=layers))
            lengths.append(press.get_layer_budget(module, tokens))
    g.put("kvpress_case_lengths", torch.tensor(lengths))


def headkv():
    sys.modules["flash_attn"] = types.SimpleNamespace(flash_attn_func=None)  # imported, not called
    authors = load_file(os.path.join(arguments.headkv, "headkv", "snapkv_utils.py"))
    torch.manual_seed(19)
    L, H, T, D, W, C, beta, temperature = 2, 3, 64, 16, 8, 24, 1.2, 1.5
    table = {f"{i // H}-{i % H}": (torch.randint(1, 64, (2,)) / 64).tolist() for i in range(L * H)}
    authors.open = lambda path, mode: io.StringIO(json.dumps(table))  # the file that they load for a model
    q, k, v = torch.randn(L, H, T, D) * 1.5, torch.randn(L, H, T, D), indices_as_values(H, T, D)
    g = Golden("headkv", f"FYYFU/HeadKV 0862a09 headkv/snapkv_utils.py ReasonSnapKVCluster; seed 19, layers {L}, H = G = {H}, T {T}, D {D}, window {W}, "
               f"capacity {C}, beta {beta}, temperature {temperature}, maxpool 7, stable sort; importance: the mean of a head's runs; "
               "make.py --headkv")
    importance = torch.tensor([np.mean(x) for x in table.values()], dtype=torch.float64)
    g.put("importance", importance.float())  # exact

    def cluster(layer, capacity, beta, temperature):
        return authors.ReasonSnapKVCluster(window_size=W, kernel_size=7, pooling="maxpool", base_capacity=capacity, head_choice="reason", beta=beta,
                                           temp=temperature, layer_idx=layer, num_hidden_layers=L, num_attention_heads=H, model="llama")

    g.put("q", q[:, :, -W:])
    g.put("k", k)
    lengths, kept = [], []
    for layer in range(L):
        c = cluster(layer, C, beta, temperature)
        torch.Tensor.sort, whole = lambda x, dim, descending: torch.sort(x, dim=dim, descending=descending, stable=True), torch.Tensor.sort
        stays = c.update_kv(k[layer : layer + 1], q[layer : layer + 1], v)[1][:, 0].split(c.head_lens.tolist())
        torch.Tensor.sort = whole
        lengths.append(c.head_lens)
        kept += [head.sort()[0].long() for head in stays]
    g.put("length", torch.cat(lengths))
    g.put("kept", torch.cat(kept))
    cases = [(128, 1.005, 1.0), (128, 1.01, 1.0), (64, 1.1, 1.0), (512, 1.5, 2.0), (1024, 2, 0.5), (64, 5, 1.0), (256, 10, 3.0), (24, 100, 1.0)]
    g.put("cases", torch.tensor([[c, round(1000 * b), round(1000 * t)] for c, b, t in cases]))
    g.put("case_capacity", torch.stack([cluster(0, *case).head_capacity.flatten() for case in cases]))


def duo_attention():
    from kvpress import DuoAttentionPress

    llama = dict.fromkeys(("LlamaForCausalLM", "CausalLMOutputWithPast", "Union", "CrossEntropyLoss", "BaseModelOutputWithPast"))
    shadowed = {name: sys.modules.get(name) for name in ("transformers.models.llama.modeling_llama", "transformers.models.mistral.modeling_mistral")}
    for name in shadowed:  # what the authors' cache imports and does not need to store tokens
        sys.modules[name] = types.SimpleNamespace(**llama, MistralForCausalLM=None)
    cache = load_file(os.path.join(arguments.duo, "duo_attn", "patch", "static_kv_cache.py")).DuoAttentionStaticKVCache
    sys.modules.update({name: module for name, module in shadowed.items() if module is not None})
    text = open(os.path.join(arguments.duo, "duo_attn", "utils.py")).read()
    sparsify = {"np": np}
    exec(text[text.index("def sparsify_attention_heads") : text.index("def save_full_attention_heads")], sparsify)

    torch.manual_seed(20)
    L, G, T, S, sinks, recent = 3, 4, 40, 12, 3, 9
    gates = torch.rand(L, G)
    g = Golden("duo_attention", f"mit-han-lab/duo-attention fe93c31 duo_attn/utils.py sparsify_attention_heads without its noise, "
               f"duo_attn/patch/static_kv_cache.py DuoAttentionStaticKVCache.compress_and_replace_streaming_kv, and kvpress 0.5.5 "
               f"DuoAttentionPress.compress where named; seed 20, layers {L}, G {G}, prompt T {T}, decode steps {S}, sinks {sinks}, recent {recent}; "
               "make.py --duo --kvpress")
    g.put("gates", gates)
    np.random.uniform, noise = lambda low, high, shape: np.zeros(shape), np.random.uniform
    for percent in (0, 25, 50, 60, 90, 100):
        g.put(f"retrieval_{percent}", torch.from_numpy(sparsify["sparsify_attention_heads"](gates.double().numpy().copy(), sparsity=percent / 100)[0]))
    np.random.uniform = noise

    stream = cache.__new__(cache)
    stream.sink_size, stream.recent_size, stream.streaming_kv_seq_len_list = sinks, recent, [0]
    stream.streaming_key_states_list = [torch.zeros(1, sinks + recent, 1, 1)]
    stream.streaming_value_states_list = [torch.zeros(1, sinks + recent, 1, 1)]
    held = torch.empty(1, 0, 1, 1)
    kept = []
    for new in [range(T)] + [range(t, t + 1) for t in range(T, T + S)]:
        held = torch.cat([held, torch.tensor(list(new)).float().view(1, -1, 1, 1)], dim=1)
        stream.compress_and_replace_streaming_kv(0, held, held)
        held = stream.streaming_value_states_list[0][:, : stream.streaming_kv_seq_len_list[0]].clone()
        kept.append(held.flatten().long())
    g.put("kept", torch.stack(kept))

    press = DuoAttentionPress(head_compression_ratio=0.4)
    press.sink_size, press.recent_size = sinks, recent
    press.streaming_mask = torch.zeros(L, G, dtype=torch.bool)
    pruned = np.argsort(gates.numpy(), axis=None)[: round(L * G * 0.4)]  # as post_init_from_model does
    press.streaming_mask[np.unravel_index(pruned, (L, G))] = True
    stays = torch.ones(L, G, T, dtype=torch.bool)
    for layer in range(L):
        module = types.SimpleNamespace(layer_idx=layer, config=types.SimpleNamespace(_attn_implementation="sdpa"))
        x = torch.zeros(1, G, T, 2)
        press.compress(module, None, x, x, None, {})
        stays[layer][module.masked_key_indices[1:]] = False
    g.put("kvpress_retrieval", ~press.streaming_mask)
    g.put("kvpress_length", stays.sum(2))
    g.put("kvpress_kept", torch.nonzero(stays)[:, 2])


def dynamickv():
    sys.modules["jsonlines"] = types.ModuleType("jsonlines")  # imported, not used
    authors = load_file(os.path.join(arguments.dynamickv, "kv_compression", "token_drop", "methods", "dynamic_v11.py"))
    authors.print = lambda *x: None
    torch.manual_seed(23)
    L, H, T, D, W, C = 8, 2, 64, 8, 8, 24
    q, k, v = torch.randn(L, H, T, D) * torch.linspace(1.6, 0.8, L).view(L, 1, 1, 1), torch.randn(L, H, T, D), indices_as_values(H, T, D)
    g = Golden("dynamickv", f"DreamMr/DynamicKV 8ab3c08 kv_compression/token_drop/methods/dynamic_v11.py DynamicKVClusterV11, called after every fourth "
               f"layer as llama_model_impl/dynamickv_v11.py does; seed 23, layers {L}, H = G = {H}, T {T}, D {D}, window {W}, capacity {C}, avgpool 7, "
               "largest ratio 10; make.py --dynamickv")
    g.put("q", q[:, :, -W:])
    g.put("k", k)
    keys, values, scores = [], [], []
    for layer in range(L):
        cluster = authors.DynamicKVClusterV11(num_hidden_layers=L, window_size=W, max_capacity_prompt=C, kernel_size=7, layer_idx=layer)
        score, _, key, value = cluster.budget_compute_per_layer(k[layer : layer + 1], q[layer : layer + 1], v, None)
        keys.append(key)
        values.append(value)
        scores.append(score)
        if layer % 4 == 3:
            keys, values, _ = cluster.update_and_reset_budget(keys, values, [], scores)
    kept = [x[0, :, :, 0].sort(dim=-1)[0].long() for x in values]
    assert all((x[:, 1:] > x[:, :-1]).all() for x in kept)  # no layer was to grow again
    g.put("length", torch.tensor([x.shape[1] for x in kept]))
    g.put("kept", torch.cat([x.flatten() for x in kept]))

    # Budgets alone: layers, mean, tokens, tenths of the largest ratio; scores of one head; lengths of the layers.
    cases = [(4, 4, 40, 50), (4, 10, 40, 20), (8, 6, 40, 100), (8, 3, 40, 10), (16, 5, 24, 100), (4, 30, 24, 100)]
    g.put("cases", torch.tensor(cases))
    lengths, case_scores = [], []
    for layers, base, tokens, tenths in cases:
        scores = torch.rand(layers, 1, 1, tokens) * torch.rand(layers, 1, 1, 1)
        cluster = authors.DynamicKVClusterV11(num_hidden_layers=layers, window_size=1, max_capacity_prompt=base + 1, layer_idx=layers - 1,
                                              radio_max=tenths / 10)
        cluster.budget_size = min(int(cluster.radio_max * base), tokens)
        x = [torch.zeros(1, 1, tokens + 1, 1)] * layers  # long enough for any length, and the window
        lengths += [y.shape[2] - 1 for y in cluster.update_and_reset_budget(x, x, [], list(scores))[0]]
        case_scores.append(scores.flatten())
    g.put("case_lengths", torch.tensor(lengths))
    g.put("case_scores", torch.cat(case_scores))


def chunkkv():
    from kvpress import ChunkKVPress, KnormPress

    torch.manual_seed(24)
    G, T, D = 2, 110, 8
    k = torch.randn(1, G, T, D) * (0.5 + torch.rand(1, G, T, 1))
    v = indices_as_values(G, T, D)
    g = Golden("chunkkv", f"kvpress 0.5.5 ChunkKVPress.compress over KnormPress; seed 24, G {G}, T {T}, D {D}; make.py --kvpress")
    g.put("k", k)
    cases, kept = [(20, 50), (20, 70), (16, 40), (7, 25), (110, 60), (1, 50), (200, 60), (55, 90)], []
    g.put("cases", torch.tensor(cases))  # size, percent removed
    for size, percent in cases:
        press = ChunkKVPress(KnormPress(percent / 100), chunk_length=size)
        out = press.compress(types.SimpleNamespace(head_dim=D), None, k, v, None, {})[1][0, :, :, 0].sort(dim=-1)[0].long()
        assert size == 200 or (out[0] == out[1]).all()
        kept.append(out)
    g.put("length", torch.tensor([x.shape[1] for x in kept]))
    g.put("kept", torch.cat([x.flatten() for x in kept]))


def lukv():
    from kvpress import KnormPress, LUKVPress

    torch.manual_seed(25)
    L, G, T, D = 3, 4, 77, 8
    k = torch.randn(L, G, T, D) * (0.5 + torch.rand(L, G, T, 1))
    curve = torch.rand(99, L, G)
    curve[40, 0, 1], curve[40, 0, 2], curve[40, 1] = 0.0, 1.0, 1.0  # a head that keeps all, one and a layer that keep nothing
    g = Golden("lukv", f"kvpress 0.5.5 LUKVPress.compress over KnormPress with a random curve; seed 25, layers {L}, G {G}, T {T}, D {D}, sinks 4, "
               "window 1; make.py --kvpress")
    g.put("k", k)
    ratios = (0.41, 0.005, 0.25, 0.7, 0.999, 0.125)
    g.put("thousandths", torch.tensor([round(1000 * x) for x in ratios]))
    rows, lengths, kept = [], [], []
    for ratio in ratios:
        press = LUKVPress(KnormPress(), ratio)
        press._budget_curves = curve.numpy()
        rows.append(max(0, min(98, int(round(ratio * 100)) - 1)))  # as compress() does
        for layer in range(L):
            module = types.SimpleNamespace(layer_idx=layer, masked_key_indices=None, config=types.SimpleNamespace(_attn_implementation="sdpa"))
            x = k[layer : layer + 1]
            press.compress(module, None, x, x, None, {})
            stays = torch.ones(G, T, dtype=torch.bool)
            if module.masked_key_indices is not None:
                stays[module.masked_key_indices[1:]] = False
            lengths.append(stays.sum(1))
            kept.append(torch.nonzero(stays)[:, 1])
    g.put("row", torch.tensor(rows))
    g.put("removed", curve[rows])
    g.put("length", torch.stack(lengths))
    g.put("kept", torch.cat(kept))


def windowkv():
    text = open(os.path.join(arguments.windowkv, "models", "compress_utils.py")).read()
    authors = {"torch": torch, "math": math, "F": nn.functional, "nn": nn}
    exec(text[text.index("class WindowKVCluster") : text.index("def init_WindowKV")], authors)  # the file reads its command line
    cluster = authors["WindowKVCluster"]
    torch.manual_seed(29)
    L, shared, H, G, T, D, W, size, C, beta = 6, 2, 4, 2, 90, 8, 8, 6, 24, 7
    q, k, v = torch.randn(L, H, T, D) * 1.5, torch.randn(L, G, T, D), indices_as_values(H, T, D)
    g = Golden("windowkv", f"optim996/WindowKV 7513467 models/compress_utils.py WindowKVCluster.update_kv, strategy average; seed 29, layers {L}, groups of "
               f"{shared}, H {H}, G {G}, T {T}, D {D}, suffix {W}, windows of {size}, capacity {C}, beta {beta}; make.py --windowkv")
    g.put("q", q[:, :, -W:])
    g.put("k", k)

    def make(layers, layer, shared, size, suffix, capacity, beta):
        return cluster(layers, layer, size, 0, shared, suffix, beta, capacity, "arithmetic", "average")

    kept = []
    cluster.layers_budget = None
    for layer in range(L):
        x = k[layer : layer + 1].repeat_interleave(H // G, 1)
        out = make(L, layer, shared, size, W, C, beta).update_kv(x, q[layer : layer + 1], v, None, H // G)[1]
        assert (out[0, :, :, 0] == out[0, :1, :, 0]).all()
        kept.append(out[0, 0, :, 0].sort()[0].long())
    g.put("length", torch.tensor([len(x) for x in kept]))
    g.put("kept", torch.cat(kept))

    # Lengths alone: layers, of a group, size, suffix, capacity, beta, tokens; then what each layer keeps, the suffix included.
    cases = [(4, 2, 8, 4, 20, 3, 100), (32, 8, 16, 32, 256, 14, 2000), (32, 8, 16, 32, 256, 14, 400), (8, 1, 5, 6, 33, 14, 77), (12, 4, 32, 8, 40, 5, 60),
             (6, 3, 7, 2, 10, 3, 50), (4, 1, 64, 8, 20, 14, 70)]
    g.put("cases", torch.tensor(cases))
    lengths = []
    for layers, shared, size, suffix, capacity, beta, tokens in cases:
        cluster.layers_budget = None
        x = torch.randn(layers, 1, 1, tokens, 2)
        for layer in range(layers):
            c = make(layers, layer, shared, size, suffix, capacity, beta)
            c.shared_layers = 1  # every layer decides for itself
            lengths.append(c.update_kv(x[layer], x[layer], x[layer], None, 1)[1].shape[2])
    g.put("case_lengths", torch.tensor(lengths))


class Finished(Exception):
    """A stand-in for a model has answered all that it was to be asked."""


def roco():
    module_of("easykv")
    sys.modules["easykv"].__path__ = []
    module_of("easykv.utils", modify_method_of_instance=lambda *x: None)
    module_of("easykv.llama_patch", llama_forward=print, llama_forward_stream=print)
    module_of("easykv.mistral_patch", mistral_forward=print, mistral_forward_stream=print)
    spec = importlib.util.spec_from_file_location("easykv.easykv", os.path.join(arguments.easykv, "easykv", "easykv.py"))
    authors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(authors)
    torch.manual_seed(28)
    H, G, T, S, D, B = 4, 2, 6, 60, 16, 30
    q, k = torch.randn(1, H, T + S, D) * 1.5, torch.randn(1, G, T + S, D)
    v = indices_as_values(G, T + S, D)
    kept = []

    def model(input_ids, past_key_values=None, **options):
        n = input_ids.shape[1]
        held = [] if past_key_values is None else [x.clone() for x in past_key_values[0]]
        at = 0 if not held else model.position
        model.position = at + n
        if held and held[0].shape[2] == T + B:
            kept.append(held[1][0, :, :, 0].long())
        if model.position > T + S:
            raise Finished
        keys, values = (torch.cat(pair, 2) if held else pair[0] for pair in
                        (([held[0]] if held else []) + [k[:, :, at : at + n]], ([held[1]] if held else []) + [v[:, :, at : at + n]]))
        return types.SimpleNamespace(past_key_values=((keys, values),), logits=torch.zeros(1, n, 7),
                                     attentions=[causal_attention(q[:, :, at : at + n], keys)])

    class Model:
        config = types.SimpleNamespace(num_hidden_layers=1, num_attention_heads=H, num_key_value_heads=G, architectures=["mistral"])
        tokenizer = types.SimpleNamespace(eos_token_id=-1, convert_ids_to_tokens=lambda ids: ids)
        device = "cpu"
        __call__ = staticmethod(model)

    try:
        authors.generate(Model(), torch.zeros(1, T, dtype=torch.long), {"budget": B, "kv_policy": "roco"}, kv_mode="decoding")
    except Finished:
        pass
    g = Golden("roco", f"DRSY/EasyKV a1d71ca easykv/easykv.py generate, mode roco, decoding; seed 28, H {H}, G {G}, prompt T {T}, decode steps {S}, D {D}, "
               f"budget {B} beside the prompt; make.py --easykv")
    g.put("q", q)
    g.put("k", k)
    g.put("kept", torch.stack(kept))


def dms():
    import kvpress.presses.dms_press as module
    from kvpress import DMSPress, KnormPress

    torch.manual_seed(26)
    G, T, S, D, W, least = 2, 40, 20, 8, 6, -2.6
    k = torch.randn(1, G, T + S, D)
    g = Golden("dms", f"kvpress 0.5.5 DMSPress.forward_hook over KnormPress; seed 26, G {G}, prompt T {T}, decode steps {S}, D {D}, window {W}, "
               f"threshold {least}; make.py --kvpress")
    g.put("k", k)
    press = DMSPress(KnormPress(), threshold=least, sliding_window_size=W, decoding=True)
    layer = types.SimpleNamespace(layer_idx=0, masked_key_indices=None)
    kept, lengths = [], []
    for n in [T] + list(range(T + 1, T + S + 1)):
        module.extract_keys_and_values = lambda cache, layer_idx, n=n: (k[:, :, :n], k[:, :, :n])
        new = T if n == T else 1
        hidden = torch.zeros(1, new, G)
        press.forward_hook(layer, [], dict(hidden_states=hidden, past_key_values=None, cache_position=torch.arange(n - new, n)), [])
        stays = torch.ones(G, n, dtype=torch.bool)
        if layer.masked_key_indices is not None:
            stays[tuple(layer.masked_key_indices[1:])] = False
        lengths.append(stays.sum(1))
        kept.append(torch.nonzero(stays)[:, 1])
    g.put("length", torch.stack(lengths))
    g.put("kept", torch.cat(kept))


def lazy_eviction():
    sys.path.insert(0, os.path.join(arguments.lazy, "LazyEviction"))
    from model.kv_utils import Window_LAZYKVCluster
    from model.temp_cacheobs import TempCache

    sys.path.pop(0)
    torch.manual_seed(27)
    H, T, S, D, C, W, alpha = 3, 14, 40, 16, 20, 4, 0.04
    q, k = torch.randn(1, H, T + S, D) * 1.5, torch.randn(1, H, T + S, D)
    v = indices_as_values(H, T + S, D)
    g = Golden("lazy_eviction", f"LazyEviction as in WeianMao/triattention e7a0eb1 LazyEviction/model/kv_utils.py Window_LAZYKVCluster.update_kv_in_decoding "
               f"with temp_cacheobs.py TempCache; seed 27, H = G = {H}, prompt T {T}, decode steps {S}, D {D}, capacity {C}, window {W}, alpha {alpha}, "
               "top-k stable and in text order; make.py --lazy")
    g.put("q", q)
    g.put("k", k)
    TempCache.reset()
    TempCache.alpha = alpha
    cluster = Window_LAZYKVCluster(max_kv_capacity=C, obs_size=W)
    # Scores tie; here the lower index wins, and tokens stay in the order of the text.
    torch.Tensor.topk, whole = lambda x, n, dim: (None, x.sort(dim=dim, descending=True, stable=True)[1][..., :n].sort(dim=dim)[0]), torch.Tensor.topk
    keys, values, lengths, kept, last, pause = k[:, :, :T], v[:, :, :T], [], [], [], []
    for t in range(1, S + 1):
        new = slice(T + t - 1, T + t)
        keys, values = torch.cat([keys, k[:, :, new]], 2), torch.cat([values, v[:, :, new]], 2)
        keys, values, _ = cluster.update_kv_in_decoding(keys, q[:, :, new], values, None, 1, W, 0, obs_count=t)
        lengths.append(keys.shape[2])
        kept.append(values[0, :, :, 0].long().flatten())
        last.append(TempCache.layer_last_recurrent[0][0].long().flatten() + T - 1)  # as positions
        pause.append(TempCache.layer_max_period[0][0].long().flatten())
    torch.Tensor.topk = whole
    g.put("length", torch.tensor(lengths))
    for name, x in (("kept", kept), ("last", last), ("pause", pause)):
        g.put(name, torch.cat(x))


def lookm():
    """The authors' classes hold 128 channels in writing; here they have `dim`. The averaging one filters where rows go, not the rows, which
    then go to places of others; here it filters neither, as its sister for text does in effect."""
    torch.manual_seed(20)
    heads, tokens, dim, best, recent = 2, 60, 16, 14, 8
    path = os.path.join(arguments.lookm, "LLaVA-mix_merge_v1", "llava", "model", "kv_token_merge", "modify_llama.py")
    text = open(path).read()
    text = text[text.index("class PivotKVCache_LayerWise"):text.index("class TextPivotMerge_LayerWise")].replace("128", str(dim))
    cut = text.index("class AVGMergeKVCache_LayerWise"), text.index("class WeightedMergeKVCache_LayerWise")
    text = text[:cut[0]] + text[cut[0]:cut[1]].replace("[..., filter_indices]", "").replace("[..., filter_indices, :]", "") + text[cut[1]:]
    names = {"torch": torch, "nn": nn, "print": lambda *_: None}
    exec(text, names)
    factory = open(os.path.join(arguments.factory, "pyramidkv", "pyramidkv_utils.py")).read()
    exec("import torch.nn.functional as F\n" + factory[factory.index("def merge_kv("):factory.index("def _gqa_groups(")], names)
    k, v = torch.randn(1, heads, tokens, dim), torch.randn(1, heads, tokens, dim)
    k += 0.8 * torch.randn(1, heads, 1, dim)
    score = torch.rand(heads, tokens)
    g = Golden("lookm", "SUSTechBruce/LOOK-M ecf0f51 kv_token_merge/modify_llama.py PivotKVCache_LayerWise, AVGMergeKVCache_LayerWise and "
               "WeightedMergeKVCache_LayerWise, with 16 for their 128 channels and without AVG's filter; normalized: Zefan-Cai/KVCache-Factory c97f9d7 pyramidkv_utils.py "
               f"merge_kv; seed 20, G={heads} T={tokens} D={dim}, {best} by score (the first 4 among them) and {recent} newest; make.py --lookm --factory")
    g.put("k", k)
    g.put("v", v)
    g.put("score", score)
    for name, kind in (("pivotal", "Pivot"), ("averaged", "AVGMerge"), ("weighted", "WeightedMerge")):
        cache = names[kind + "KVCache_LayerWise"](hh_size=best, recent_size=recent)
        merged = cache((k, v), score[None, :, None, :].clone())
        g.put("keys_" + name, merged[0])
        g.put("values_" + name, merged[1])
    first = score[:, :tokens - recent].clone()
    first[:, :4] = float("inf")
    kept = first.topk(best, dim=-1).indices.sort(dim=-1).values
    g.put("kept", torch.cat([kept, torch.arange(tokens - recent, tokens).expand(heads, -1)], dim=-1))
    merged = names["merge_kv"](k, v, kept[None, :, :, None], recent, "weighted")
    g.put("keys_normalized", merged[0])
    g.put("values_normalized", merged[1])


def cam():
    """One step of the authors' cache: the token before the newest `recent` goes. In `sure` and `never` their draw cannot fail."""
    torch.manual_seed(21)
    heads, start, recent, dim = 3, 5, 24, 8
    tokens = start + 1 + recent
    module = load_file(os.path.join(arguments.cam, "generate_task", "streaming_llm", "kv_cache_cam.py"))
    k, v, score = torch.randn(heads, tokens, dim), torch.randn(heads, tokens, dim), torch.rand(heads, tokens)
    g = Golden("cam", "zyxxmu/cam fc80e64 generate_task/streaming_llm/kv_cache_cam.py slicev, its draw replaced by the probability in part; seed 21, "
               f"G={heads} T={tokens} D={dim}, {start} first and {recent} newest kept; make.py --cam")
    g.put("k", k)
    g.put("v", v)
    for name, factor in (("part", 1.0), ("sure", 100.0), ("never", 0.0)):
        mine = score.clone()
        mine[:, start] *= factor
        drawn = torch.bernoulli
        if name == "part":
            torch.bernoulli = lambda p: p
        recent_values, _ = module.slicev(v[None].clone(), start + 1, tokens, "recent", attn_weights=mine[None, :, None], merge=True)
        torch.bernoulli = drawn
        g.put("score_" + name, mine)
        g.put("values_" + name, torch.cat([v[None, :, :start], recent_values], dim=2))


def compensation_token():
    """The company's deployed form, head by head: MindSpore's cat and mean by torch."""
    torch.manual_seed(25)
    G, T, D, S, capacity = 3, 30, 8, 4, 12
    text = open(os.path.join(arguments.golden_stick, "mindspore_gs", "experimental", "long_context_compress", "razor_attention", "wrappers",
                             "vllm_mindspore", "attention_wrappers.py")).read()
    ops = types.SimpleNamespace(cat=lambda x, axis: torch.cat(x, dim=axis), mean=lambda x, axis, keep_dims: x.mean(dim=axis, keepdim=keep_dims))
    scope = {"ops": ops}
    exec(textwrap.dedent(text[text.index("    def _compress("):text.index("    def _is_empty_tensor(")]), scope)
    k, v = torch.randn(T, G, D) + torch.randn(G, D), torch.randn(T, G, D)
    g = Golden("compensation_token", "mindspore-ai/golden-stick a50ddc9 mindspore_gs/experimental/long_context_compress/razor_attention/wrappers/"
               "vllm_mindspore/attention_wrappers.py DeployRACompressCell._compress, MindSpore's cat and mean by torch; "
               f"seed 25, G={G} T={T} D={D}, {S} sinks; make.py --golden-stick")
    g.put("k", k.transpose(0, 1))
    g.put("v", v.transpose(0, 1))
    for tokens in (30, 13, 12, 11):
        cell = types.SimpleNamespace(cfg=types.SimpleNamespace(local_capacity=capacity, sink_size=S))
        for name, x in (("keys", k), ("values", v)):
            g.put(f"{name}_{tokens}", scope["_compress"](cell, x[:tokens], True).transpose(0, 1))


def d2o():
    """The authors' class holds 32 heads of 128 channels in writing; here it has `heads` of `dim`."""
    torch.manual_seed(22)
    heads, tokens, dim, best, recent = 3, 50, 16, 11, 9
    text = open(os.path.join(arguments.d2o, "LLM_merge_new", "LMEval_kv_token_merge", "modeling_llama3_7b_13b_d2o.py")).read()
    text = text[text.index("class D2O_LayerKVCache"):text.index("class LlamaAttention3_D2O")]
    names = {"torch": torch, "print": lambda *_: None}
    exec(text.replace("128", str(dim)).replace("(32, 4)", f"({heads}, 4)"), names)
    k, v = torch.randn(1, heads, tokens, dim) + 0.5 * torch.randn(1, heads, 1, dim), torch.randn(1, heads, tokens, dim)
    score = torch.rand(heads, tokens)
    g = Golden("d2o", "AIoT-MLSys-Lab/D2O 12c99d8 LMEval_kv_token_merge/modeling_llama3_7b_13b_d2o.py D2O_LayerKVCache, first call, with 3 for its "
               f"32 heads and 16 for its 128 channels; seed 22, G={heads} T={tokens} D={dim}, {best} by score (the first 4 among them) and {recent} "
               "newest; LlamaAttention3_D2O.forward and modeling_llama3_new.py LlamaModel.forward for layers, seed 33; 14 more calls of a second object, alpha 0.3 and belta 0.7, seed 34; make.py --d2o")
    g.put("k", k)
    g.put("v", v)
    g.put("score", score)
    merged = names["D2O_LayerKVCache"](hh_size=best, recent_size=recent)((k, v), score.clone(), 0, 0, tokens - 1)
    g.put("keys", merged[0])
    g.put("values", merged[1])
    # What each layer keeps: the lines that measure a layer's attention, and those that share the budget.
    torch.manual_seed(33)
    attention = nn.functional.softmax(torch.randn(8, 1, 4, 40, 40) * torch.linspace(0.2, 4, 8).view(8, 1, 1, 1, 1), dim=-1)
    lines = open(os.path.join(arguments.d2o, "LLM_merge_new", "LMEval_kv_token_merge", "modeling_llama3_7b_13b_d2o.py")).read()
    measure = textwrap.dedent(lines[lines.index("            attn_sum = attn_weights_draw.sum"):lines.index("        if q_len !=1: # prefilling")])
    model = open(os.path.join(arguments.d2o, "LLM_merge_new", "LMEval_kv_token_merge", "modeling_llama3_new.py")).read()
    share = model[model.index("            layer_multimodal_entropy_list = []"):]
    share = textwrap.dedent(share[:share.index("        for idx, decoder_layer in enumerate(self.layers):\n            if output_hidden_states")])
    layers = []
    for one in attention:
        layer = types.SimpleNamespace(uniform_hh_ratio=0.15, uniform_recent_ratio=0.1)
        exec(measure, {"self": layer, "attn_weights_draw": one})
        layers.append(types.SimpleNamespace(self_attn=layer))
    model = types.SimpleNamespace(layers=layers, config=types.SimpleNamespace(num_hidden_layers=8))
    exec(share, {"self": model, "torch": torch})
    g.put("attention", attention.sum(dim=-2))
    g.put("unevenness", torch.stack([one.self_attn.multimodal_entropy for one in layers]))
    g.put("best", torch.tensor([int(1000 * one.self_attn.layer_hh_ratio) for one in layers]))
    g.put("recent", torch.tensor([int(1000 * one.self_attn.layer_recent_ratio) for one in layers]))
    # The steps after the prompt: one token comes, one leaves or joins, by a threshold that runs on.
    torch.manual_seed(34)
    steps, cache = 14, names["D2O_LayerKVCache"](hh_size=best, recent_size=recent, alpha=0.3, belta=0.7)
    shift = k.mean(dim=2, keepdim=True)
    more_k, more_v = torch.randn(1, heads, steps, dim) + shift, torch.randn(1, heads, steps, dim)
    g.put("more_k", more_k)
    g.put("more_v", more_v)
    held, thresholds, scores = cache((k, v), score.clone(), 0, 0, tokens - 1), [], []
    thresholds.append(cache.threshold)
    for i in range(steps):
        grown = tuple(torch.cat([past, one[:, :, i:i + 1]], dim=2) for past, one in zip(held, (more_k, more_v)))
        paid = torch.rand(heads, best + recent + 1)
        ends = cache.hh_score.clone()
        scores.append(paid + nn.functional.pad(ends, (0, 1)))
        held = cache(grown, paid, 0, 0, tokens - 1)
        thresholds.append(cache.threshold)
    g.put("thresholds", torch.stack(thresholds))
    g.put("scores", torch.nan_to_num(torch.stack(scores), posinf=3e38))
    g.put("last_keys", held[0])
    g.put("last_values", held[1])


def minicache():
    """Two layers whose tokens point alike, more or less; one token is zero in the first layer, one the same in both."""
    torch.manual_seed(19)
    module = load_file(os.path.join(arguments.factory, "pyramidkv", "minicache.py"))
    heads, tokens, dim = 2, 96, 8
    previous = torch.randn(1, heads, tokens, dim)
    current = 1.7 * previous + torch.rand(1, heads, tokens, 1) * 3 * torch.randn(1, heads, tokens, dim)
    previous[0, 0, 40] = 0
    current[0, 1, 7] = 2 * previous[0, 1, 7]
    g = Golden("minicache", "Zefan-Cai/KVCache-Factory c97f9d7 pyramidkv/minicache.py compress_minicache_pair and restore_minicache_pair (the "
               "authors published no code of the method); seed 19, "
               f"two layers, G={heads} T={tokens} D={dim}, of all tokens (96) and of 32 at a time, retaining 0.05 and 0.3; make.py --factory")
    g.put("previous", previous)
    g.put("current", current)
    for block, ratio in ((96, 0.05), (32, 0.05), (32, 0.3)):
        name = f"_{block}_{round(100 * ratio)}"
        parts = {"retained": [], "previous": [], "current": []}
        for first in range(0, tokens, block):
            c, p = current[:, :, first:first + block], previous[:, :, first:first + block]
            merged = module.compress_minicache_pair(c, p, retention_ratio=ratio)
            kept = merged[6]
            back = module.restore_minicache_pair(*merged[:3], current_retained=merged[4], previous_retained=merged[5], retained_indices=kept)
            parts["retained"].append(kept + first)
            parts["current"].append(back[0])
            parts["previous"].append(back[1])
        for part, tensors in parts.items():
            g.put(part + name, torch.cat(tensors, dim=2))


def module_of(name, **names):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(names)


def cake():
    shadowed = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "transformers"}
    anything = dict(Union=typing.Union, List=typing.List, BaseModelOutputWithPast=object, logger=types.SimpleNamespace(warning_once=lambda text: None),
                    LlamaConfig=None)
    llama = dict(anything, apply_rotary_pos_emb=lambda q, k, cos, sin: (q, k), repeat_kv=lambda x, n: x.repeat_interleave(n, 1))
    for name in ("transformers", "transformers.models", "transformers.models.llama"):
        module_of(name)
    module_of("transformers.models.llama.modeling_llama", **llama)
    module_of("transformers.models.llama.configuration_llama", **anything)
    module_of("transformers.modeling_flash_attention_utils", _flash_attention_forward=lambda q, *rest, **options: q)
    module_of("transformers.cache_utils", **{name: type(name, (), {}) for name in ("Cache", "DynamicCache", "StaticCache", "HybridCache")})
    sys.path.insert(0, arguments.cake)
    from cake import cake_cache, utils
    from cake.model import modify_llama

    sys.path.pop(0)
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        del sys.modules[name]
    sys.modules.update(shadowed)

    torch.manual_seed(21)
    L, H, G, T, D, W, C, gamma, tau1, tau2 = 4, 4, 2, 96, 16, 8, 24, 200.0, 1.6, 0.4
    spread = torch.tensor([0.6, 0.9, 1.2, 1.6]).view(L, 1, 1, 1)  # from even attention to peaked
    q, k, v = torch.randn(L, H, T, D) * spread, torch.randn(L, G, T, D), indices_as_values(G, T, D)
    g = Golden("cake", f"antgroup/cakekv c4675ce cake/model/modify_llama.py llama_attn_forward_cake with cake/cake_cache.py CakeCache and "
               f"CakeprefillKVCache, cake/utils.py adjust_budgets; seed 21, layers {L}, H {H}, G {G}, T {T}, D {D}, window {W}, capacity {C}, "
               f"gamma {gamma:g}, tau {tau1} and {tau2}; make.py --cake")
    g.put("q", q[:, :, -W:])
    g.put("k", k)
    for name, cascading in (("plain", False), ("cascading", True)):
        evict = cake_cache.CakeprefillKVCache(cache_size=C, window_size=W, num_heads=H, num_layers=L, use_cascading=cascading)
        config = types.SimpleNamespace(decoding_evict=[None] * L, prefill=[True] * L, window_size=[W] * L, key_size=[C] * L, tau1=tau1, tau2=tau2,
                                       gamma=gamma, prefill_cake_evict=[evict] * L, _pre_quantization_dtype=torch.float32)
        cache, preferences, scores = cake_cache.CakeCache(), [], []
        for layer in range(L):
            proj = [lambda x, y=y[layer : layer + 1] if y.shape[0] == L else y: y.transpose(1, 2).flatten(2) for y in (q, k, v)]
            me = types.SimpleNamespace(config=config, layer_idx=layer, q_proj=proj[0], k_proj=proj[1], v_proj=proj[2], num_heads=H,
                                       num_key_value_heads=G, num_key_value_groups=H // G, head_dim=D, training=False, attention_dropout=0.0,
                                       _flash_attn_uses_top_left_mask=False, is_causal=True, o_proj=lambda x: x)
            whole, cache.update_score = cake_cache.CakeCache.update_score, lambda p, s: (preferences.append(torch.tensor(p)), scores.append(s), whole(cache, p, s))
            modify_llama.llama_attn_forward_cake(me, torch.zeros(1, T, H * D), past_key_value=cache, position_embeddings=(None, None))
        g.put("length_" + name, torch.tensor([x.shape[2] for x in cache.value_cache]))
        g.put("kept_" + name, torch.cat([x[0, :, :, 0].sort(dim=-1)[0].long().flatten() for x in cache.value_cache]))
    g.put("preference", torch.stack(preferences))
    g.put("score", torch.stack(scores)[:, 0])

    # Corrections alone: layers, total, limit of a layer, then the layers' first shares; what becomes of them.
    torch.manual_seed(22)
    cases = [([200, 100, 50, 50], 400, 120)]
    for layers, total, limit in ((4, 64, 40), (8, 800, 120), (8, 800, 101), (8, 800, 99), (5, 333, 90), (16, 1600, 300), (3, 7, 20)):
        share = torch.rand(layers, dtype=torch.float64).pow(4)
        share = (share / share.sum() * total).long()
        share[0] += total - share.sum()
        cases.append((share.tolist(), total, limit))
    g.put("cases", torch.tensor([x for shares, total, limit in cases for x in (len(shares), total, limit, *shares)]))
    g.put("case_budgets", torch.tensor([x for shares, total, limit in cases for x in utils.adjust_budgets(shares, total, limit, len(shares))]))


def kvcrush():
    silent = types.SimpleNamespace(info=lambda *x: None, warning=lambda *x: None)
    sys.modules["vllm"] = types.ModuleType("vllm")
    sys.modules["vllm.logger"] = types.SimpleNamespace(init_logger=lambda name: silent)
    port = load_file(os.path.join(arguments.kvcrush, "vllm", "v1", "attention", "backends", "kvcrush.py"))
    torch.manual_seed(16)
    H, G, T, D, W, start, recent, budget, ratio = 6, 3, 96, 16, 8, 4, 8, 32, 0.25
    q, k = torch.randn(1, H, T, D) * 1.5, torch.randn(1, G, T, D)
    g = Golden("kvcrush", f"vllm-project/vllm ea297c9 vllm/v1/attention/backends/kvcrush.py H2OKVCrushCluster.update_kv; "
               f"seed 16, H {H}, G {G}, T {T}, D {D}, window {W}, first {start} and last {recent} kept, budget {budget} between them, of which "
               f"{ratio} representatives, stable sort; make.py --kvcrush")
    g.put("q", q[:, :, -W:])
    g.put("k", k)
    torch.sort, whole = lambda x, dim=-1: whole(x, dim=dim, stable=True), torch.sort  # distances tie; the lower index wins
    for page in (1, 4):
        for anchor in ("mean", "inv_mean", "alternate"):
            cluster = port.H2OKVCrushCluster(window_size=W, recent_size=recent, max_capacity_prompt=budget, kvcrush_ratio=ratio,
                                             start_size=start, anchor_mode=anchor, block_size=page)
            g.put(f"kept_{anchor}_{page}", cluster.update_kv(k, q, indices_as_values(G, T, D), page)[1][..., 0].long())
    torch.sort = whole


def kvcrush_pages():
    """The program reads cases off its input as numbers: page, budget, anchor mode, seed, count and indices of the pages to evict, count and
    scores of the tokens. It passes them to create_anchor_point_kvcrush and get_indices_of_blocks_to_retain_using_kvcrush and prints what
    each returns, a line for either."""
    torch.manual_seed(17)
    N, P, E, B = 96, 4, 14, 4
    score = torch.rand(N) ** 3
    evicted = score.view(-1, P).sum(1).argsort()[:E].sort()[0]
    g = Golden("kvcrush_pages", f"openvinotoolkit/openvino.genai da1db86 src/cpp/src/continuous_batching/cache/kvcrush.cpp KVCrushAlgorithm; seed 17, "
               f"{N} tokens that may go, pages of {P}, {E} to evict, of which {B} stay; make.py --kvcrush-pages")
    g.put("score", score)
    g.put("evicted", evicted)
    for mode, name in enumerate(("random", "zeros", "ones", "mean", "alternating")):
        case = [P, B, mode, 3, E, *evicted.tolist(), N, *(f"{x:.17g}" for x in score.tolist())]
        answer = subprocess.run([arguments.kvcrush_pages], input=" ".join(map(str, case)), capture_output=True, text=True, check=True).stdout
        anchor, kept = (torch.tensor([int(x) for x in line.split()]) for line in answer.splitlines())
        g.put("anchor_" + name, anchor)
        g.put("kept_" + name, kept.sort()[0])


def ggml():
    """The program links src/ggml-quants.c, compiled without flags for the machine (gcc -O2), as ggml's base library is. It reads a count and
    as many f32 as hexadecimal bit patterns, and for each of q8_0, q5_1, q5_0, q4_1, q4_0, mxfp4, nvfp4 prints two lines: the bytes that
    quantize_row_*_ref writes as numbers, and what dequantize_row_* makes of them as bit patterns."""
    torch.manual_seed(18)
    n, j = torch.randn(24, 32), torch.arange(32).float()
    blocks = [
        torch.zeros(32), torch.where(j % 2 == 0, -0.0, 0.0), torch.where(j < 5, -0.0, torch.where(j < 9, 0.0, n[0].abs())),
        n[1], n[2] * 1e-30, n[3] * 1e-7, n[4] * 1e-4, n[5] * 300, (torch.rand(32) * 2 - 1) * 6e4, torch.where(j == 7, 6e4, n[6]),
        torch.where(j == 31, -300.0, n[7]), n[8] + 100, n[9] * 1e-3 - 20,
        torch.where(j == 0, 127.0, j * 4 - 60.5), torch.where(j == 0, -127.0, j * 7.5 - 110),  # ties of q8_0
        torch.where(j == 4, -8.0, (j % 16) - 7.5), torch.where(j == 4, 16.0, j - 15.5),  # of q4_0 and q5_0, and their ends
        (j * 0.5).clamp(max=15), j + torch.where(j % 31 == 0, 0.0, 0.5),  # of q4_1 and q5_1
        torch.where(j % 3 == 1, 2.0, -2.0), torch.where(j % 3 == 0, 2.0, -2.0),  # equal magnitudes: the first one's sign
        torch.full((32,), 1.7), torch.full((32,), -1.7), n[10].bfloat16().float(),
    ]
    x = torch.stack(blocks)
    g = Golden("ggml", f"ggml-org/ggml d99724f src/ggml-quants.c quantize_row_*_ref and dequantize_row_*; seed 18, {len(blocks)} blocks of 32; "
               "make.py --ggml")
    g.put("x", x)
    put_ggml(g, x, ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0"))


def put_ggml(g, x, names):
    words = " ".join(format(int(w), "x") for w in x.flatten().numpy().view(np.uint32))
    answer = subprocess.run([arguments.ggml], input=f"{x.numel()} {words}", capture_output=True, text=True, check=True).stdout.splitlines()
    for i, name in enumerate(("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "mxfp4", "nvfp4")):
        if name in names:
            g.put("bytes_" + name, torch.tensor([int(b) for b in answer[2 * i].split()]))
            values = np.array([int(w, 16) for w in answer[2 * i + 1].split()], dtype=np.uint32)
            g.put("value_" + name, torch.from_numpy(values.view(np.float32)))


def fp4():
    """ggml's bytes; and codes and scales of pytorch/ao, whose package is needed besides."""
    from torchao.prototype.mx_formats.mx_tensor import to_mx
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize
    torch.manual_seed(22)
    n, j = torch.randn(24, 64), torch.arange(64).float()
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0])
    x = torch.stack([
        torch.zeros(64), torch.where(j % 2 == 0, -0.0, 0.0), n[0], n[1] * 1e-30, n[2] * 1e-3, n[3] * 1e-2, n[4] * 0.1, n[5] * 30, n[6] * 400,
        torch.where(j == 7, 60.0, n[7]), torch.where(j == 31, -300.0, n[8]), n[9] + 20,
        ties.repeat(8) * torch.where(j < 32, 1.0, -1.0), ties.repeat(8) * torch.where(j % 3 == 0, -4.0, 4.0),  # ties of a scale 1 and 4
        torch.where(j % 16 == 3, 7.9, n[10]), torch.where(j % 32 == 3, 8.0, n[11]), torch.where(j % 16 == 3, 1e-35, 0.0),
        n[12].bfloat16().float(),
    ])
    g = Golden("fp4", f"ggml-org/ggml d99724f src/ggml-quants.c quantize_row_{{mxfp4,nvfp4}}_ref and dequantize_row_*; torchao 0.18.0 "
               f"prototype/mx_formats to_mx (floor) and nvfp4_quantize; seed 22, {len(x)} rows of 64, and 12 of 96; make.py --ggml --torchao")
    g.put("x", x)
    put_ggml(g, x, ("mxfp4", "nvfp4"))
    unpack = lambda code: torch.stack((code & 15, code >> 4), -1)
    y = torch.randn(12, 96) * torch.where(torch.arange(96) % 10 == 3, 9.0, 1.0)
    scale, code = to_mx(y, torch.float4_e2m1fn_x2, 32)
    g.put("y", y)
    g.put("mx_scale", scale.view(torch.uint8))
    g.put("mx_code", unpack(code.view(torch.uint8)))
    for name, all_of in (("1", None), ("all", y.abs().max() / 2688)):
        scale, code = nvfp4_quantize(y, 16, all_of)
        g.put("nv_scale_" + name, scale.view(torch.uint8))
        g.put("nv_code_" + name, unpack(code.view(torch.uint8)))


def turboquant():
    """The rotation and the projection are given: signed Hadamard matrices that anybody can make, in place of the seeded random ones. The
    search for levels goes on until it changes nothing; after their 200 rounds levels of 4 bits are 0.0005 of a deviation off."""
    sys.path.insert(0, arguments.turboquant)
    from turboquant import turboquant as t
    from turboquant.lloyd_max import solve_lloyd_max
    solve_lloyd_max.__defaults__ = (False, 20000, 1e-11)
    g = Golden("turboquant", "tonbistudio/turboquant-pytorch 9997138 turboquant/turboquant.py TurboQuantMSE, TurboQuantProd, lloyd_max.py; seed 24, "
               "unit vectors [4, channels], signed Hadamard matrices of seed 5 for both projections; make.py --turboquant")
    torch.manual_seed(24)

    def mix(a, b):
        mask = (1 << 64) - 1
        x = (a + 0x9E3779B97F4A7C15 + b) & mask
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    def rotation(seed, n):
        h = torch.ones(1, 1, dtype=torch.float64)
        while h.shape[0] < n:
            h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)), 0)
        return h * torch.tensor([-1.0 if mix(seed, d) >> 63 else 1.0 for d in range(n)], dtype=torch.float64) / n**0.5

    for n in (64, 128):
        first = rotation(5, n)
        second = rotation(mix(5, 0x7175616E74) | 1, n) @ first
        x, q = torch.nn.functional.normalize(torch.randn(4, n), dim=-1), torch.randn(4, n)
        g.put(f"x_{n}", x)
        g.put(f"q_{n}", q)
        for bits in (1, 2, 3, 4):
            for exact in (False, True):
                g.put(f"levels_{n}_{bits}_{'exact' if exact else 'gaussian'}", solve_lloyd_max(n, bits, use_exact=exact)[0])
            m = t.TurboQuantMSE(n, bits)
            m.Pi = first.float()
            value, code = m(x)
            g.put(f"code_{n}_{bits}", code)
            if bits == 3:
                g.put(f"value_{n}_{bits}", value)
        for bits in (2, 3, 4):
            m = t.TurboQuantProd(n, bits)
            m.mse.Pi, m.S = first.float(), (n**0.5 * second).float()
            coded = m.quantize(x)
            g.put(f"inner_code_{n}_{bits}", coded["mse_indices"])
            g.put(f"inner_sign_{n}_{bits}", coded["qjl_signs"])
            g.put(f"inner_missed_{n}_{bits}", coded["residual_norm"])
            g.put(f"inner_product_{n}_{bits}", torch.stack([m.inner_product(y.unsqueeze(0), coded) for y in q]))


def fp8():
    from torchao.quantization import quant_primitives as q
    g = Golden("fp8", "torchao 0.18.0 quantization/quant_primitives.py _choose_scale_float8, _quantize_affine_float8, _dequantize_affine_float8; "
               "seed 23, f32 [12 tokens, 64 channels], a tenth of the channels large; make.py --torchao")
    torch.manual_seed(23)
    x = torch.randn(12, 64) * torch.where(torch.arange(64) % 10 == 3, 30.0, 1.0) * torch.exp(torch.randn(12, 1))
    g.put("x", x)
    for name, kind in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        for size in (64, 16):
            scale = q._choose_scale_float8(x, [1, size], kind)
            code = q._quantize_affine_float8(x, scale, kind)
            g.put(f"scale_{name}_{size}", scale)
            g.put(f"code_{name}_{size}", code.view(torch.uint8))
            g.put(f"value_{name}_{size}", q._dequantize_affine_float8(code, scale))


def start_of(i, c):
    """Uniform in [0, 1) by splitmix64's finaliser of i + 1, then c + 1: what iterations start from, so that both start alike."""
    mask = (1 << 64) - 1
    x = (i + 1 + 0x9E3779B97F4A7C15 + c + 1) & mask
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return ((x ^ (x >> 31)) >> 40) * 2.0**-24


def gear():
    """The authors start their iteration from torch.rand without a seed; here it returns a start that anybody can make."""
    m = load_file(os.path.join(arguments.gear, "GenerationBench/GenerationTest/GEARLM/Simulated/compress_function.py"))
    g = Golden("gear", "HaoKang-Timmy/GEAR efe0bfe GenerationBench/GenerationTest/GEARLM/Simulated/compress_function.py: gears_channelQ, gears_tokenQ, "
               "gearslkivi_channelQ_new, gearslkivi_tokenQ_new, tokenwise_gearlkivi_channelQ, tokenwise_gearlkivi_tokenQ; seed 19, f16 [1,1,64,64], "
               "group 32, 10 % outliers, rank 4, 3 rounds from start_of; of 3, 5, 6 and 7 bits [1,1,32,32] of them, group 16")
    torch.manual_seed(19)
    k = (torch.randn(1, 1, 64, 64) * (1 + 6 * (torch.arange(64) % 9 == 2)) + torch.randn(64)).half()
    v = (torch.randn(1, 1, 64, 64) + torch.randn(64, 3) @ torch.randn(3, 64)).half()
    g.put("k", k)
    g.put("v", v)

    def start(*shape):
        return torch.tensor([[start_of(i, c) for i in range(shape[3])] for c in range(shape[2])]).expand(*shape).clone()

    m.torch = types.SimpleNamespace(**{name: getattr(torch, name) for name in dir(torch) if name != "rand"}, rand=start)
    for bits in (2, 4):
        g.put(f"k_sparse_{bits}", m.gears_channelQ(k, bits, 32, 0.1))
        g.put(f"v_sparse_{bits}", m.gears_tokenQ(v, bits, 32, 0.1))
        for name, x, both, low in (("k", k, m.gearslkivi_channelQ_new, m.tokenwise_gearlkivi_channelQ),
                                   ("v", v, m.gearslkivi_tokenQ_new, m.tokenwise_gearlkivi_tokenQ)):
            missed = (x.double() - both(x, bits, 32, 0.1, 4, 3).double()).norm(), (x.double() - low(x.float(), bits, 32, 4, 3).double()).norm()
            g.put(f"{name}_missed_{bits}", torch.stack(missed).float())
    for bits in (3, 5, 6, 7):  # theirs have bits^2 - 1 steps: so given, 2^bits - 1
        g.put(f"k_sparse_{bits}", m.gears_channelQ(k[:, :, :32, :32], 2 ** (bits / 2), 16, 0.1))
        g.put(f"v_sparse_{bits}", m.gears_tokenQ(v[:, :, :32, :32], 2 ** (bits / 2), 16, 0.1))
    g = Golden("gear_kcvt", "HaoKang-Timmy/GEAR efe0bfe GenerationBench/GenerationTest/GEARLM/Simulated/compress_function.py: gears_channelQ, gears_tokenQ, "
               "tokenwise_gearlkivi_channelQ as compress_method GEAR-KCVT and GEARL-KCVT call them; seed 32, f16 [1,1,192,32], 10 % outliers, rank 4, "
               "3 rounds from start_of")
    torch.manual_seed(32)
    k = (torch.randn(1, 1, 192, 32) * (1 + 6 * (torch.arange(32) % 9 == 2)) + torch.randn(32)).half()
    v = (torch.randn(1, 1, 192, 32) + torch.randn(192, 3) @ torch.randn(3, 32)).half()
    g.put("k", k)
    g.put("v", v)
    for bits in (2, 4):
        g.put(f"k_codes_{bits}", m.gears_channelQ(k, bits, 192, 0.0))
        g.put(f"k_sparse_{bits}", m.gears_channelQ(k[:, :, :64], bits, 64, 0.1 * 2))  # theirs are of channels, 0.2 * 32 / 2 of 64 tokens
        g.put(f"v_sparse_{bits}", m.gears_tokenQ(v, bits, 32, 0.1))
        g.put(f"k_missed_{bits}", (k.double() - m.tokenwise_gearlkivi_channelQ(k.float(), bits, 192, 4, 3).double()).norm().float())


def rotated():
    """Their CUDA extension and the CUDA routine of the transform are not called here; packages stand in for them."""
    for name in ("quarot", "quarot.functional", "quarot.transformers", "fast_hadamard_transform", "transformers"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [os.path.join(arguments.quarot, *name.split("."))]
    sys.modules["transformers.cache_utils"] = types.ModuleType("transformers.cache_utils")
    sys.modules["transformers.cache_utils"].Cache = object
    sys.modules["quarot"]._CUDA = sys.modules["fast_hadamard_transform"].hadamard_transform = None
    from quarot.transformers.kv_cache import asym_quantize_and_pack_i4
    hadamard = load_file(os.path.join(arguments.quarot, "fake_quant", "hadamard_utils.py"))
    g = Golden("rotated", "spcl/QuaRot 5008669 fake_quant/hadamard_utils.py matmul_hadU, matmul_hadUt, quarot/transformers/kv_cache.py "
               "asym_quantize_and_pack_i4; seed 21, f32 [3 tokens, channels], a tenth of the channels large; make.py --quarot")
    torch.manual_seed(21)
    for n in (4, 20, 24, 64, 72, 80, 96, 112, 128, 160, 192, 256):
        x = torch.randn(3, n) * torch.where(torch.arange(n) % 10 == 3, 9.0, 1.0)
        y = hadamard.matmul_hadU(x)
        packed, scale, zero = asym_quantize_and_pack_i4(y)
        g.put(f"x_{n}", x)
        g.put(f"rotated_{n}", y)
        g.put(f"back_{n}", hadamard.matmul_hadUt(x))
        g.put(f"code_{n}", torch.stack((packed & 15, packed >> 4), -1))
        g.put(f"scale_{n}", scale)
        g.put(f"low_{n}", -zero)


def xkv():
    """The file imports a part of transformers that newer releases lack and does not need it for its SVD, so that function alone is run."""
    text = open(os.path.join(arguments.xkv, "xKV/customized_cache/fake_layer_merge_dynamic_cache.py")).read()
    scope = {"torch": torch}
    exec(text[text.index("def fake_svd"):text.index("def slerp_merge_rows_batch")], scope)
    g = Golden("xkv", "abdelfattah-lab/xKV bfe5d72 xKV/customized_cache/fake_layer_merge_dynamic_cache.py fake_svd; seed 20, two layers of G 2, T 50, D 16, rank 12, "
               "their heads side by side")
    torch.manual_seed(20)
    x = torch.randn(50, 64) @ torch.diag(0.85 ** torch.arange(64.0)) @ torch.linalg.qr(torch.randn(64, 64)).Q
    rows = x.view(1, 50, 4, 16).transpose(1, 2).contiguous()
    g.put("rows", rows)
    g.put("rank_12", scope["fake_svd"](rows, 12))
    g.put("head_rank_5", torch.cat([scope["fake_svd"](rows[:, h:h + 1], 5) for h in range(4)], dim=1))


def cskv():
    text = open(os.path.join(arguments.cskv, "cskv_src/utils/training_utils.py")).read()
    scope = {"torch": torch, "svd": torch.linalg.svd}
    exec(text[text.index("def init_svd("):text.index("def init_svd_parallel_inference(")], scope)
    g = Golden("cskv", "wln20/CSKV cd79226 cskv_src/utils/training_utils.py init_svd, init_asvd; seed 22, hidden width 40, G 3, T 60, D 16, 7 numbers a head")
    torch.manual_seed(22)
    x, w = torch.randn(60, 40), torch.randn(48, 40) @ torch.diag(0.9 ** torch.arange(40.0))
    heads = lambda y: y.view(60, 3, 16).transpose(0, 1)  # noqa: E731
    g.put("x", x[:20])
    g.put("flow", x.abs().mean(0))
    g.put("weights", w)
    g.put("rows", heads(x @ w.T))
    for name, (a, b) in (("svd", scope["init_svd"](w, 7, 3)), ("asvd", scope["init_asvd"](w, x.abs().mean(0), 7, 3))):
        g.put(f"b_{name}", b)
        g.put(f"rebuilt_{name}", heads(x @ a.T @ b.T))
    m = load_file(os.path.join(arguments.cskv, "cskv_src/utils/quant_utils.py"))
    g = Golden("cskv_codes", "wln20/CSKV cd79226 cskv_src/utils/training_utils.py init_svd, quant_utils.py KVQuantizerChannel, KVQuantizer; seed 33, hidden width "
               "40, G 3, T 64, D 16, 8 numbers a head, groups of 32 tokens")
    torch.manual_seed(33)
    x, w = torch.randn(64, 40), torch.randn(48, 40) @ torch.diag(0.9 ** torch.arange(40.0))
    a, b = scope["init_svd"](w, 8, 3)
    heads = lambda y: y.view(64, 3, 16).transpose(0, 1)  # noqa: E731
    latents = (x @ a.T).view(1, 64, 3, 8).transpose(1, 2)
    grown = lambda y: heads(y.transpose(1, 2).reshape(64, 24) @ b.T)  # noqa: E731
    g.put("rows", heads(x @ w.T))
    g.put("b", b)
    g.put("rebuilt", grown(latents))
    for bits in (4, 2):
        g.put(f"keys_{bits}", grown(m.KVQuantizerChannel.apply(latents, bits, 32)))
        g.put(f"values_{bits}", grown(m.KVQuantizer.apply(latents, bits, 8)))


def palu():
    """Their Hadamard transform of powers of two is a CUDA routine of another package; the one that they wrote in torch takes its place."""
    for name in ("palu_modules", "fast_hadamard_transform"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["palu_modules"].__path__ = [os.path.join(arguments.palu, "palu/model/modules")]
    hadamard = importlib.import_module("palu_modules.hadamard_utils")
    hadamard.matmul_hadU_cuda = lambda x, had_k, k, transpose=False: hadamard.matmul_hadU(x)
    module = importlib.import_module("palu_modules.svd_linear")
    g = Golden("palu", "shadowpa0327/Palu bb22666 palu/model/modules/svd_linear.py HeadwiseLowRankModule, quant.py; seed 23, hidden width 24, G 4 in groups of 2, T 24, "
               "D 16, rank 16")
    torch.manual_seed(23)
    x, calibration = torch.randn(24, 24), torch.randn(100, 24) @ torch.diag(0.95 ** torch.arange(24.0))
    linear = nn.Linear(24, 64, bias=False)
    linear.weight.data = torch.randn(64, 24) @ torch.diag(0.9 ** torch.arange(24.0))
    linear.scaling_diag_matrix = torch.linalg.cholesky(calibration.T @ calibration)
    heads = lambda y: y.view(24, 4, 16).transpose(0, 1)  # noqa: E731
    g.put("x", x)
    g.put("weights", linear.weight)
    g.put("whitening", linear.scaling_diag_matrix)
    g.put("rows", heads(linear(x)))
    m = module.HeadwiseLowRankModule.from_linear_whiten(linear, [16, 16])
    g.put("factors", torch.stack([u.weight for u in m.U]))
    g.put("rebuilt", heads(m(x[None])))
    for bits in (4, 3, 2):
        m = module.HeadwiseLowRankModule.from_linear_whiten(linear, [16, 16])
        m.configure_latent_quantizer(bits, 0, False, 1.0, hadamard=True)
        g.put(f"rebuilt_{bits}", heads(m(x[None])))
    g.put("factors_hadamard", torch.stack([u.weight for u in m.U]))


class Rotary(nn.Module):
    """What transformers' LlamaRotaryEmbedding gave when these codes were written."""
    def __init__(self, dim, max_position_embeddings=0, base=10000.0):
        super().__init__()
        self.angles = torch.outer(torch.arange(512.0), base ** (-torch.arange(0, dim, 2) / dim))

    def forward(self, x, position_ids):
        angles = torch.cat((self.angles, self.angles), -1)[position_ids]
        return angles.cos(), angles.sin()


def apply_rotary(q, k, cos, sin):
    turned = lambda x: torch.cat((-x[..., x.shape[-1] // 2:], x[..., :x.shape[-1] // 2]), -1)  # noqa: E731
    cos, sin = cos[:, None], sin[:, None]
    return q * cos + turned(q) * sin, k * cos + turned(k) * sin


def attention_scope():
    """Names that their files import from a transformers of their time."""
    return {"torch": torch, "nn": nn, "F": nn.functional, "math": math, "Cache": object, "LlamaConfig": object, "LlamaRotaryEmbedding": Rotary,
            "apply_rotary_pos_emb": apply_rotary, "repeat_kv": lambda x, n: x.repeat_interleave(n, 1), **vars(typing)}


def small_attention(seed):
    """A layer of 4 query and 2 KV heads of 16, whose output projection changes nothing."""
    torch.manual_seed(seed)
    config = types.SimpleNamespace(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, attention_dropout=0.0, max_position_embeddings=512, rope_theta=10000.0,
                                   rope_scaling=None, attention_bias=False, pretraining_tp=1)
    layer = types.SimpleNamespace(q_proj=nn.Linear(64, 64, bias=False), k_proj=nn.Linear(64, 32, bias=False), v_proj=nn.Linear(64, 32, bias=False),
                                  o_proj=nn.Linear(64, 64, bias=False))
    layer.o_proj.weight.data = torch.eye(64)
    for projection in (layer.q_proj, layer.k_proj, layer.v_proj):
        projection.weight.data = torch.randn_like(projection.weight) @ torch.diag(0.9 ** torch.arange(64.0))
        projection.requires_grad_(False)
    return config, layer


def eigen_attention():
    scope = attention_scope()
    text = open(os.path.join(arguments.eigen, "models/decompose_modules.py")).read()
    exec(text[text.index("class LlamaEigenAttention("):text.index("class LlamaEigenAttnDecoderLayer(")], scope)
    text = open(os.path.join(arguments.eigen, "decompose/eigen_attn_utils.py")).read()
    scope["np"] = np
    exec(text[text.index("def generate_basis_vectors_per_head("):text.index("@torch.no_grad()")], scope)
    g = Golden("eigen_attention", "UtkarshSaxena1/EigenAttn 8bd0d3f decompose/eigen_attn_utils.py generate_basis_vectors_per_layer, generate_basis_vectors_per_head, "
               "models/decompose_modules.py LlamaEigenAttention; seed 24, 4 query and 2 KV heads of 16, T 24, ranks 10 and 12")
    config, layer = small_attention(24)
    calibration, x, places = torch.randn(60, 64), torch.randn(1, 24, 64), torch.arange(24)[None]
    heads = lambda y: y.view(1, -1, y.shape[-1] // 16, 16).transpose(1, 2)  # noqa: E731
    features = layer.k_proj(calibration), layer.v_proj(calibration), layer.q_proj(calibration)[:, :32]
    keys, _ = scope["generate_basis_vectors_per_layer"](features[0], 1.0, 2, None, 0)
    values, _ = scope["generate_basis_vectors_per_head"](features[1], 1.0, 2, None, 0)
    both, _ = scope["generate_basis_vectors_per_head"](torch.cat((features[0], features[2])), 1.0, 2, None, 0)
    m = scope["LlamaEigenAttention"](keys, 20, values, 24, layer, config, 0)
    cos, sin = m.rotary_emb(x, places)
    q, k = apply_rotary(heads(layer.q_proj(x)), heads(layer.k_proj(x)), cos, sin)
    g.put("key_features", heads(features[0]))
    g.put("query_features", heads(features[2]))
    g.put("value_features", heads(features[1]))
    g.put("q", q)
    g.put("k", k)
    g.put("v", heads(layer.v_proj(x)))
    g.put("key_basis", keys)
    g.put("value_basis", values)
    g.put("key_query_basis", both)
    g.put("out", m(x, torch.full((24, 24), -math.inf).triu(1)[None, None], places)[0])


def think():
    from kvpress import ThinKPress

    text = open(os.path.join(arguments.think, "ThinK_eager/src/kv_pruning_utils.py")).read()
    scope = {"torch": torch}
    exec(text[text.index("def key_pruner_query_driven("):text.index("# Copied from transformers")], scope)
    H, G, T, D, W, R = 4, 2, 60, 40, 32, 20
    g = Golden("think", f"SalesforceAIResearch/ThinK d200577 ThinK_eager/src/kv_pruning_utils.py key_pruner_query_driven, kvpress 0.5.5 "
               f"ThinKPress.compress; seed 31, H {H}, G {G}, T {T}, D {D}, {W} queries, {R} recent")
    torch.manual_seed(31)
    q = torch.randn(1, H, W, D) * torch.rand(1, H, 1, D)
    k = torch.randn(1, G, T, D) * torch.rand(1, G, 1, D) + torch.randn(1, G, 1, D)
    g.put("q", q)
    g.put("k", k)
    channels = lambda stays: torch.stack([one.nonzero().flatten() for one in stays])  # noqa: E731
    for percent in (30, 40, 75):
        # The authors' function repeats keys for query heads; here each head's first query head alone.
        old, recent, kept = scope["key_pruner_query_driven"](k, q[:, ::H // G], R, percent / 100)
        g.put(f"kept_{percent}", channels(kept[0]))
        if percent == 40:
            g.put("old_40", old)
        assert torch.equal(recent, k[:, :, T - R:])
        press = ThinKPress(percent / 100, W)
        press.compute_window_queries = lambda *_: q
        module = types.SimpleNamespace(config=types.SimpleNamespace(num_attention_heads=H), head_dim=D)
        zeroed, _ = press.compress(module, None, k.clone(), None, None, {"hidden_states": None, "position_embeddings": None})
        g.put(f"kept_grouped_{percent}", channels((zeroed[0] != 0).any(dim=1)))


def matryoshkakv():
    """Calibration, as their two functions do it, then their layer with matrices that went through their training form."""
    scope = attention_scope() | {"DynamicCache": object, "LlamaAttention": nn.Module}

    class LlamaAttention(nn.Module):
        def __init__(self, config, layer_idx=None):
            super().__init__()
            self.hidden_size, self.head_dim, self.num_heads, self.num_key_value_heads, self.num_key_value_groups = 64, 16, 4, 2, 2
            self.attention_dropout, self.rotary_emb = 0.0, Rotary(16)
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(self, name, getattr(layer, name))
    scope["LlamaAttention"] = LlamaAttention
    text = open(os.path.join(arguments.matryoshkakv, "eigenvalues_decomposition.py")).read()
    exec(text[text.index("def sum_kv_states_per_head("):], scope)
    text = open(os.path.join(arguments.matryoshkakv, "LLaMA-Factory/src/llamafactory/model/custom_model/modeling_pcallama_trial.py")).read()
    exec(text[text.index("def repeat_unitary_transform("):text.index("def load_from_lora_training(")], scope)
    exec(text[text.index("def unitary_transform("):text.index("class PcaLlamaDecoderLayer(")], scope)
    g = Golden("matryoshkakv", "The-kamisato/MatryoshkaKV-cache 25b5f13 eigenvalues_decomposition.py sum_kv_states_per_head, kv_states_per_head_convariance_decomposition, "
               "LLaMA-Factory/src/llamafactory/model/custom_model/modeling_pcallama_trial.py PcaLlamaAttention; seed 25, 4 query and 2 KV heads of 16, T 24")
    config, layer = small_attention(25)
    calibration, x, places = torch.randn(1, 60, 64) + 0.5, torch.randn(1, 24, 64) + 0.5, torch.arange(24)[None]
    heads = lambda y: y.view(1, -1, y.shape[-1] // 16, 16).transpose(1, 2)  # noqa: E731
    cos, sin = Rotary(16)(x, torch.arange(60)[None])
    features = apply_rotary(heads(layer.k_proj(calibration)), heads(layer.k_proj(calibration)), cos, sin)[1], heads(layer.v_proj(calibration))
    zeros = lambda: [[torch.tensor(0) for _ in range(2)]]  # noqa: E731
    sums = scope["sum_kv_states_per_head"](zeros(), zeros(), zeros(), zeros(), [features], 0)
    _, _, keys, values = scope["kv_states_per_head_convariance_decomposition"](*sums)
    cos, sin = Rotary(16)(x, places)
    q, k = apply_rotary(heads(layer.q_proj(x)), heads(layer.k_proj(x)), cos, sin)
    m = scope["PcaLlamaAttention"](config, sums[2][0], sums[3][0], keys[0], values[0]).eval()
    g.put("key_features", features[0])
    g.put("value_features", features[1])
    g.put("q", q)
    g.put("k", k)
    g.put("v", heads(layer.v_proj(x)))
    g.put("key_mean", m.mean_key_weights[0, ::2, 0])
    g.put("value_mean", m.mean_value_weights[0, ::2, 0])
    g.put("key_directions", m.orthogonal_(m.key_unitary_transform_weights)[::2])
    g.put("value_directions", m.orthogonal_(m.value_unitary_transform_weights)[::2])
    mask = torch.full((24, 24), -math.inf).triu(1)[None, None]
    for keep in ((16, 16), (12, 10), (5, 7)):
        g.put("out_{}_{}".format(*keep), m(x, mask, places, key_truncate_index=keep[0], value_truncate_index=keep[1])[0])


def kvquant():
    m = load_file(os.path.join(arguments.kvquant, "quant/kvquant/simquant_module_quantizer.py"))
    g = Golden("kvquant", "SqueezeAILab/KVQuant 57a2383 quant/kvquant/simquant_module_quantizer.py SimQuant.quantize with Fisher weights, get_outliers, "
               "get_outliers_dynamic, quant_fn_nuq_recon; seed 23, calibrated on other rows of the same kind, T 32, C 32, first token kept; norm: 1.05 x + 0.01")
    torch.manual_seed(23)
    spread, shift = 0.3 + torch.rand(32) * 2, torch.randn(32) * 2
    far = lambda n: 1 + 5 * (torch.rand(n, 32) < 0.01)  # noqa: E731
    rows = lambda n: (torch.randn(n, 32) * spread + shift) * far(n)  # noqa: E731
    other, k, v = rows(200), rows(32), torch.randn(32, 32) * far(32)
    other_v, fisher = torch.randn(200, 32) * far(200), torch.rand(200, 32)
    g.put("k", k)
    g.put("v", v)

    def calibrated(x, bits, channel):
        sim = m.SimQuant(torch.nn.Linear(1, 32), bits, qchannel=channel)
        sim.add_batch(x, x[None])
        return sim.quantize(include_sparse=True, sparsity_threshold=0.99, nuq=True, fisher=fisher, first_few_fp16=1)

    scale, offset = torch.tensor(1.05), torch.tensor(0.01)
    for bits in (2, 3, 4):
        high, low, codebook = calibrated(other, bits, 0)
        high, low = high.flatten().float(), low.flatten().float()
        if bits == 2:
            g.put("k_low", low)
            g.put("k_high", high)
        g.put(f"k_codebook_{bits}", torch.tensor(codebook[0]).float())
        mask = m.get_outliers(k, channel=0, outlier_threshold_upper=high, outlier_threshold_lower=low, first_few_fp16=1)
        static = dict(bits=bits, qchannel=0, include_sparse=True, outlier_mask=mask, maxval=high, minval=low, lut=codebook, first_few_fp16=1)
        g.put(f"k_value_{bits}", m.quant_fn_nuq_recon(k, **static))
        if bits == 2:
            g.put("k_norm_2", m.quant_fn_nuq_recon(k, norm=True, normscale=scale, normoffset=offset, **static))
        codebook = calibrated(other_v, bits, -1)[2]
        g.put(f"v_codebook_{bits}", torch.tensor(codebook[0]).float())
        for name, part in (("value", 0.99), ("wide", 0.9))[:1 + bits // 4]:
            mask = m.get_outliers_dynamic(v, channel=-1, thresh=part, first_few_fp16=1)
            g.put(f"v_{name}_{bits}", m.quant_fn_nuq_recon(v, bits=bits, qchannel=-1, dynamicquantization=True, include_sparse=True, outlier_mask=mask,
                                                           lut=codebook, first_few_fp16=1))


def mustafar():
    text = open(os.path.join(arguments.mustafar, "models/llama_mustafar_kernel.py")).read()
    lines = text[text.index("    def dh_prune_key("):text.index("    def dh_prune_value(")]
    scope = {"torch": torch}
    exec("class Pruner:\n" + lines, scope)
    g = Golden("mustafar", "dhjoo98/mustafar d83ee7e models/llama_mustafar_kernel.py dh_prune_key (dh_prune_value is the same); seed 32, G 2, T 12, D 80")
    torch.manual_seed(32)
    k = torch.randn(1, 2, 12, 80) * torch.rand(1, 2, 1, 80)
    g.put("k", k)
    for percent in (0, 30, 50, 70, 99):
        g.put(f"pruned_{percent}", scope["Pruner"]().dh_prune_key(k, percent / 100))


def shadowkv():
    """Their cache in float on the CPU, without the kernels that its file imports."""
    for name in ("models", "models.tensor_op", "kernels"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["models.tensor_op"].batch_gather_gemm_rotary_pos_emb_cuda = sys.modules["kernels"].shadowkv = None
    cache = load_file(os.path.join(arguments.shadowkv, "models/kv_cache.py")).ShadowKVCache
    g = Golden("shadowkv", "bytedance/ShadowKV a21f5a9 models/kv_cache.py ShadowKVCache.get_svd, get_key_cache; seed 26, G 2, T 40, D 16, rank 12, float")
    torch.manual_seed(26)
    x = torch.randn(40, 32) @ torch.diag(0.85 ** torch.arange(32.0)) @ torch.linalg.qr(torch.randn(32, 32)).Q
    rows = x.view(1, 40, 2, 16).transpose(1, 2).contiguous()
    c = types.SimpleNamespace(batch_size=1, num_key_value_heads=2, head_dim=16, num_layers=1, rank=12, device="cpu", dtype=torch.float32, sparse_start=0, sparse_end=40,
                              gen_offset=0, incoming_q_len=0, k_cache_buffer=torch.zeros(1, 1, 2, 40, 16))
    cache.get_svd(c, rows, 0)

    def rotate(k, places):
        cos, sin = Rotary(16)(k, places[:, 0])
        return apply_rotary(k, k, cos, sin)[1]
    g.put("rows", rows)
    g.put("rebuilt", cache.get_key_cache(c, 0, torch.arange(40).expand(1, 2, 40), rotate, None))


def landmarks():
    for name in ("models", "models.tensor_op", "kernels"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["models.tensor_op"].batch_gather_gemm_rotary_pos_emb_cuda = sys.modules["kernels"].shadowkv = None
    cache = load_file(os.path.join(arguments.shadowkv, "models/kv_cache.py")).ShadowKVCache
    T, D, G, H = 139, 16, 2, 6
    g = Golden("landmarks", "bytedance/ShadowKV a21f5a9 models/kv_cache.py ShadowKVCache.prefill_kv_cache, get_retrieval_position_ids; seed 31, G 2, H 6, T 139, D 16, "
               "chunks of 8, 3 outliers, budget 40, float; their queries times sqrt(128 / D), because they divide by sqrt(128)")
    torch.manual_seed(31)
    k = torch.randn(1, G, T, D) * 0.7 + torch.randn(1, G, 18, D).repeat_interleave(8, dim=2)[:, :, :T]
    v = torch.randn(1, G, T, D)
    q = torch.randn(1, H, 2, D)
    g.put("k", k)
    g.put("q", q)
    for tokens in (1, 2):
        c = types.SimpleNamespace(batch_size=1, num_key_value_heads=G, num_key_value_groups=H // G, head_dim=D, num_layers=1, device="cpu", dtype=torch.float32, chunk_size=8,
                                  local_chunk=4, outlier_chunk=3, sparse_budget=40, kv_offset=0, v_cache_cpu=torch.zeros(1, 1, G, 256, D), k_cache_buffer=torch.zeros(1, 1, G, 256, D),
                                  v_cache_buffer=torch.zeros(1, 1, G, 256, D), selected_chunk_idx=torch.zeros(1, 1, G, 5, dtype=torch.long))
        c.register_k_landmark = types.MethodType(cache.register_k_landmark, c)
        cache.prefill_kv_cache(c, v, 0, k)
        cache.get_retrieval_position_ids(c, 0, q[:, :, :tokens] * (128 / D) ** 0.5)
        context = c.chunks
        every = set(range(context))
        rest = c.k_landmark_idx[0, 0]
        if tokens == 1:
            g.put("outliers", torch.stack([torch.tensor(sorted(every - set(rest[h].tolist()))) for h in range(G)]))
            g.put("local", torch.tensor([context]))
        g.put(f"chosen_{tokens}", c.selected_chunk_idx[0, 0].sort(-1).values)


def zipcache():
    m = load_file(os.path.join(arguments.zipcache, "zipcache/models/CompressUtils/compress_function.py"))
    g = Golden("zipcache", "ThisisBillhe/ZipCache b6932b9 zipcache/models/CompressUtils/compress_function.py true_mixedprec_compress_channelwise of K, "
               "true_channel_separate_mixedprec_tokenwise_compress of each class of V, and back; seed 24, T 40, D 32, every third token in 4 bits, the rest in 2; "
               "and 16 channels of the first 20 in 3, 5, 6 or 7")
    torch.manual_seed(24)
    k = torch.randn(1, 1, 40, 32) * (0.3 + torch.rand(32) * 2) + torch.randn(32) * 2
    v = torch.randn(1, 1, 40, 32) * (0.2 + 8 * torch.rand(32) ** 4)
    chosen = torch.arange(40) % 3 == 0
    high, low = chosen.nonzero()[:, 0][None, None], (~chosen).nonzero()[:, 0][None, None]
    g.put("k", k)
    g.put("v", v)
    stored = m.true_mixedprec_compress_channelwise(k, high, low, 4, 2)
    g.put("k_value", m.true_mixedprec_decompress_channelwise(*stored[:3], 4, *stored[3:], 2, high, low, torch.float32, k.shape))
    out = torch.zeros_like(v)
    for ids, bits in ((high, 4), (low, 2)):
        rows, every = v[:, :, ids[0, 0]], torch.arange(ids.shape[-1])[None, None]
        stored = m.true_channel_separate_mixedprec_tokenwise_compress(rows, every, every, bits, bits)
        out[:, :, ids[0, 0]] = m.true_channel_separate_mixedprec_tokenwise_decompress(
            *stored[:3], bits, *stored[3:6], bits, stored[6], every, every, torch.float32, rows.shape)
    g.put("v_value", out)
    # Other widths, which are not packed: one class of 20 tokens, read as codes of 8 bits are.
    every = torch.arange(20)[None, None]
    for bits in (3, 5, 6, 7):
        x = k[:, :, :20, :16]
        stored = m.true_mixedprec_compress_channelwise(x, every, every, bits, bits)
        g.put(f"k_value_{bits}", m.true_mixedprec_decompress_channelwise(*stored[:3], 8, *stored[3:], 8, every, every, torch.float32, x.shape))
        x = v[:, :, :20, :16]
        stored = m.true_channel_separate_mixedprec_tokenwise_compress(x, every, every, bits, bits)
        g.put(f"v_value_{bits}", m.true_channel_separate_mixedprec_tokenwise_decompress(
            *stored[:3], 8, *stored[3:6], 8, stored[6], every, every, torch.float32, x.shape))


MAKERS = [
    (arguments.zipcache, (zipcache,)),
    (arguments.kvquant, (kvquant,)),
    (arguments.shadowkv, (shadowkv, landmarks)),
    (arguments.matryoshkakv, (matryoshkakv,)),
    (arguments.mustafar, (mustafar,)),
    (arguments.eigen, (eigen_attention,)),
    (arguments.palu, (palu,)),
    (arguments.think and arguments.kvpress, (think,)),
    (arguments.cskv, (cskv,)),
    (arguments.xkv, (xkv,)),
    (arguments.gear, (gear,)),
    (source, (kivi, snapkv_authors)),
    (arguments.snapkv, (snapkv_query_heads,)),
    (arguments.kvpress, (presses,)),
    (arguments.kvpress, (keydiff, expected_attention, finch, curdkv, criticalkv, chunked)),
    (arguments.fastkvzip and arguments.kvpress, (fastkvzip,)),
    (arguments.lagkv and arguments.kvpress, (lagkv,)),
    (arguments.kvzip and arguments.kvpress, (kvzip,)),
    (arguments.laq, (laq,)),
    (arguments.qfilters and arguments.kvpress, (qfilters,)),
    (arguments.tova and arguments.kvpress, (tova,)),
    (arguments.h2o, (h2o,)),
    (arguments.kvpress and arguments.factory, (h2o_grouped,)),
    (arguments.factory, (minicache,)),
    (arguments.lookm and arguments.factory, (lookm,)),
    (arguments.cam, (cam,)),
    (arguments.golden_stick, (compensation_token,)),
    (arguments.d2o, (d2o,)),
    (arguments.adakv and arguments.factory and arguments.kvpress, (adakv,)),
    (arguments.factory and arguments.kvpress, (pyramidkv,)),
    (arguments.headkv, (headkv,)),
    (arguments.duo and arguments.kvpress, (duo_attention,)),
    (arguments.cake, (cake,)),
    (arguments.dynamickv, (dynamickv,)),
    (arguments.windowkv, (windowkv,)),
    (arguments.easykv, (roco,)),
    (arguments.lazy, (lazy_eviction,)),
    (arguments.kvpress, (chunkkv,)),
    (arguments.kvpress, (lukv,)),
    (arguments.kvpress, (dms,)),
    (arguments.quest, (quest,)),
    (arguments.kvcrush, (kvcrush,)),
    (arguments.kvcrush_pages, (kvcrush_pages,)),
    (arguments.ggml, (ggml,)),
    (arguments.ggml and arguments.torchao, (fp4,)),
    (arguments.torchao, (fp8,)),
    (arguments.turboquant, (turboquant,)),
    (arguments.quarot, (rotated,)),
]
for given, makers in MAKERS:
    for make in makers if given else ():
        make()
