#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
"""Makes the golden files. Nothing of kvslim takes part.

    pip install torch transformers kvpress==0.5.5
    pip download --no-deps --no-binary :all: minference==0.1.6.0   # carries KIVI's and SnapKV's routines; unpack it
    python3 make.py MINFERENCE_SOURCE_FOLDER OUT_FOLDER
"""
import importlib.util, os, sys, types
import numpy as np
import torch
import torch.nn as nn

source, out = sys.argv[1:3]


def load(name):
    spec = importlib.util.spec_from_file_location(name, os.path.join(source, "minference", "modules", name + ".py"))
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
               "quant_and_pack_vcache, unpack_tensor, unpack_and_dequant_*; seed 0, f16 [1,1,64,32], group 32")
    torch.manual_seed(0)
    k = (torch.randn(1, 1, 64, 32) * (1 + 4 * (torch.arange(32) % 7 == 2))).half()
    v = torch.randn(1, 1, 64, 32).half()
    g.put("k", k)
    g.put("v", v)
    for bits in (2, 4, 8):
        code, scale, mn = m.quant_and_pack_kcache(k, 32, bits)
        g.put(f"k_code_{bits}", m.unpack_tensor(code, bits, pack_dim=2))
        g.put(f"k_scale_{bits}", scale)
        g.put(f"k_min_{bits}", mn)
        g.put(f"k_value_{bits}", m.unpack_and_dequant_kcache(code, scale, mn, 32, bits))
        code, scale, mn = m.quant_and_pack_vcache(v, 32, bits)
        g.put(f"v_code_{bits}", m.unpack_tensor(code, bits, pack_dim=3))
        g.put(f"v_scale_{bits}", scale)
        g.put(f"v_min_{bits}", mn)
        g.put(f"v_value_{bits}", m.unpack_and_dequant_vcache(code, scale, mn, 32, bits))


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


for make in (kivi, snapkv_authors, presses):
    make()
