#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
"""Trains the byte-level llama-architecture reference model and writes it as one GGUF file.

    python3 train.py --text DIR [DIR ...] --out kvslim-reference.gguf --compile

Needs torch, numpy and gguf (all on PyPI). --text takes folders of plain text (see MODEL_CARD.md for the Debian
packages that the shipped model was trained on). Files whose path hash falls in 1/40 are held out. STAGES says how
context and mixture change: looking back is learned first, on short sequences that are almost nothing but repeats (a model
that has read text for 25 MB learns it far more slowly), then text and facts scattered in text, at growing length. What
nobody can predict (the digits of a fact, the first copy of a string) carries no loss; what can be looked up does.
A checkpoint (--state) is written every few minutes, and training continues from it when it exists.
"""
import argparse, glob, json, math, os, time, zlib
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

LAYERS, WIDTH, Q_HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, CONTEXT = 6, 192, 4, 1, 64, 512, 256, 2048
ROPE_BASE = 10000.0
# (share of all bytes at which the stage ends, context, bytes a step, share of rows: text, copies, pairs; the rest is facts)
STAGES = [(0.08, 128, 4096, (0.15, 0.40, 0.35)), (0.30, 256, 8192, (0.40, 0.08, 0.12)), (0.52, 512, 8192, (0.42, 0.04, 0.20)),
          (0.75, 1024, 8192, (0.46, 0.03, 0.15)), (1.01, 2048, 8192, (0.50, 0.03, 0.10))]
# Loss weights of an answer's digits: the first decides whose code it is, the others follow from it.
ANSWER = np.array([10, 2, 2, 2, 2], np.float32)
BOS = 0  # byte 0 opens every sequence: it never occurs in text and gives attention a place to rest


def rope_tables(length):
    freq = ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    angle = torch.outer(torch.arange(length).float(), freq)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):  # half-split pairs in training; export permutes to the interleaved pairs GGUF expects
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.attn_norm, self.ffn_norm = Norm(), Norm()
        self.q, self.k, self.v = linear(WIDTH, Q_HEADS * HEAD_DIM), linear(WIDTH, KV_HEADS * HEAD_DIM), linear(WIDTH, KV_HEADS * HEAD_DIM)
        self.o = linear(Q_HEADS * HEAD_DIM, WIDTH)
        self.gate, self.up, self.down = linear(WIDTH, FFN), linear(WIDTH, FFN), linear(FFN, WIDTH)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        h = self.attn_norm(x)
        q = rotate(self.q(h).view(b, t, Q_HEADS, HEAD_DIM).transpose(1, 2), cos, sin)
        k = rotate(self.k(h).view(b, t, KV_HEADS, HEAD_DIM).transpose(1, 2), cos, sin)
        v = self.v(h).view(b, t, KV_HEADS, HEAD_DIM).transpose(1, 2)
        k, v = k.expand(b, Q_HEADS, t, HEAD_DIM), v.expand(b, Q_HEADS, t, HEAD_DIM)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm()
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                std = 0.02 if "embed" in name or "head" in name else (p.shape[1] ** -0.5) * 0.6
                nn.init.normal_(p, std=std)
            if name.endswith(("o.weight", "down.weight")):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS))

    def forward(self, tokens, cos, sin):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x)).float()


# ---- optimiser: Muon for matrices (orthogonalised momentum, Jordan 2024), AdamW for the rest -------------------


def orthogonalise(g):
    x = g.bfloat16() / (g.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):  # quintic Newton-Schulz
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.T if tall else x).float()


class Muon:
    def __init__(self, params):
        self.params, self.momentum = list(params), None

    @torch.no_grad()
    def step(self, lr):
        if self.momentum is None:
            self.momentum = [torch.zeros_like(p) for p in self.params]
        for p, m in zip(self.params, self.momentum):
            m.lerp_(p.grad, 0.05)
            update = orthogonalise(p.grad.lerp(m, 0.95))
            p.mul_(1 - lr * 0.02).add_(update, alpha=-lr * 0.2 * math.sqrt(max(p.shape)))


# ---- data ------------------------------------------------------------------------------------------------------


def load_text(folders):
    train, held = [], []
    for folder in folders:
        for path in sorted(glob.glob(os.path.join(folder, "**", "*.txt"), recursive=True)):
            with open(path, "rb") as f:
                data = f.read().replace(b"\0", b"")
            name = os.path.relpath(path, folder).encode()
            (held if zlib.crc32(name) % 40 == 0 else train).append(data + b"\n\n")
    return [np.frombuffer(b"".join(part), np.uint8) for part in (train, held)]


def word(rng, held):
    """A pronounceable name. Names whose hash is 0 mod 8 never appear in training."""
    while True:
        n = rng.integers(2, 4)
        w = "".join("bdfgklmnprstvz"[rng.integers(14)] + "aeiou"[rng.integers(5)] for _ in range(n)) + "nrslk"[rng.integers(5)]
        if (zlib.crc32(w.encode()) % 8 == 0) == held:
            return w


def code(rng):
    return "".join(str(d) for d in rng.integers(0, 10, 5))


class Builder:
    def __init__(self, length):
        self.tokens, self.weight, self.left = [np.array([BOS], np.uint8)], [np.zeros(1, np.float32)], length - 1

    def add(self, data, weight):
        if isinstance(data, str):
            data = np.frombuffer(data.encode(), np.uint8)
        data = data[: self.left]
        self.tokens.append(data)
        self.weight.append(np.broadcast_to(np.asarray(weight, np.float32), len(data)) if np.ndim(weight) == 0 else weight[: len(data)])
        self.left -= len(data)

    def done(self):
        return np.concatenate(self.tokens), np.concatenate(self.weight)


def excerpt(text, rng, n):
    at = rng.integers(0, len(text) - n - 1)
    return text[at : at + n]


def sample_text(text, rng, length):
    b = Builder(length)
    b.add(excerpt(text, rng, length), 1.0)
    return b.done()


def sample_copy(text, rng, length):
    """A few random strings, over and over in random order."""
    b = Builder(length)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789", np.uint8)
    strings = [rng.choice(letters, int(rng.integers(4, 14))) for _ in range(int(rng.integers(1, max(3, length // 64) + 1)))]
    known = set()
    while b.left > 0:
        i = int(rng.integers(len(strings)))
        b.add(" ", 0.1)
        b.add(strings[i][:1], 0.1)
        b.add(strings[i][1:], 1.0 if i in known else 0.0)
        known.add(i)
    return b.done()


def sample_pairs(text, rng, length):
    """A table of names and codes whose lines come again and again."""
    b = Builder(length)
    table = [(word(rng, False), code(rng)) for _ in range(int(rng.integers(1, max(3, length // 64) + 1)))]
    known = set()
    while b.left > 0:
        i = int(rng.integers(len(table)))
        b.add("\n" + table[i][0] + " ", 0.1)
        b.add(table[i][1], ANSWER if i in known else 0.0)
        known.add(i)
    return b.done()


def sample_recall(text, rng, length, facts=None, held=False):
    """Facts scattered in filler, then every fact asked in random order, some again (several turns)."""
    if facts is None:
        most = max(1, length // 80)
        facts = int(np.exp(rng.uniform(0, np.log(most + 0.99))))
    table = {}
    while len(table) < facts:
        table[word(rng, held)] = code(rng)
    order = list(table)
    ask = [order[i] for i in rng.permutation(facts)]
    ask += [order[int(i)] for i in rng.integers(0, facts, 1 + facts // 2)]
    questions = sum(len(f"\nRecall {w} 12345") for w in ask)
    facts_len = sum(len(f"\nRemember {w} 12345.\n") for w in order)
    filler = max(0, length - 1 - questions - facts_len)
    cuts = np.sort(rng.integers(0, filler + 1, facts))
    b, at = Builder(length), 0
    body = excerpt(text, rng, filler) if filler else np.zeros(0, np.uint8)
    for w, cut in zip(order, cuts):
        b.add(body[at:cut], 0.7)
        b.add(f"\nRemember {w} ", 0.3)
        b.add(table[w], 0.0)
        b.add(".\n", 0.3)
        at = cut
    b.add(body[at:], 0.7)
    for w in ask:
        b.add(f"\nRecall {w} ", 0.1)
        b.add(table[w], ANSWER)
    b.add(excerpt(text, rng, max(1, b.left)), 0.3)
    return b.done()


def batch(text, rng, length, rows, mixture):
    out, makers = [], (sample_text, sample_copy, sample_pairs, sample_recall)
    for r in range(rows):
        kind = (r + rng.random()) / rows
        make = makers[int(np.searchsorted(np.cumsum(mixture), kind, side="right"))]
        out.append(make(text, rng, length + 1))
    tokens = torch.from_numpy(np.stack([o[0] for o in out]).astype(np.int64))
    weight = torch.from_numpy(np.stack([o[1] for o in out]))
    return tokens[:, :-1], tokens[:, 1:], weight[:, 1:]


# ---- evaluation ------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model, held, length, rows=8, windows=24):
    cos, sin = rope_tables(length)
    rng = np.random.default_rng(7)
    nll = count = 0.0
    for w in range(windows):
        at = int(w * (len(held) - length - 1) / windows)
        t = torch.tensor(np.concatenate(([BOS], held[at : at + length])).astype(np.int64))[None]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(t[:, :-1], cos, sin)
        nll += F.cross_entropy(logits[0], t[0, 1:], reduction="sum").item()
        count += length
    result = {"length": length, "bits_per_byte": nll / count / math.log(2)}
    for name, facts in (("pass_key", 1), ("many_facts", max(2, length // 180))):
        right = asked = 0
        for _ in range(3):
            made = [sample_recall(held, rng, length + 1, facts, True) for _ in range(rows)]
            t = torch.from_numpy(np.stack([m[0] for m in made]).astype(np.int64))
            answer = torch.from_numpy(np.stack([m[1] for m in made]) >= 2.0)[:, 1:]
            with torch.autocast("cpu", torch.bfloat16):
                hit = model(t[:, :-1], cos, sin).argmax(-1) == t[:, 1:]
            for r in range(rows):
                at = answer[r].nonzero().flatten()
                at = at[: len(at) // 5 * 5].view(-1, 5)
                right += hit[r][at].all(-1).sum().item()
                asked += len(at)
        result[name] = right / max(1, asked)
    return result


# ---- export ----------------------------------------------------------------------------------------------------


def export(model, path, note):
    import gguf

    def interleave(weight, heads):  # half-split rows to interleaved rows, as llama-architecture GGUF expects
        return weight.reshape(heads, 2, HEAD_DIM // 2, -1).swapaxes(1, 2).reshape(heads * HEAD_DIM, -1)

    w = gguf.GGUFWriter(path, "llama")
    w.add_name("kvslim-reference")
    w.add_description(note)
    w.add_license("apache-2.0")
    w.add_context_length(CONTEXT)
    w.add_embedding_length(WIDTH)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(FFN)
    w.add_head_count(Q_HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_key_length(HEAD_DIM)
    w.add_value_length(HEAD_DIM)
    w.add_rope_dimension_count(HEAD_DIM)
    w.add_rope_freq_base(ROPE_BASE)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(VOCAB)
    w.add_tokenizer_model("no_vocab")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    p = {k: v.detach().float().numpy() for k, v in model.state_dict().items()}
    half = lambda name: p[name].astype(np.float16)
    w.add_tensor("token_embd.weight", half("embed.weight"))
    w.add_tensor("output_norm.weight", p["norm.weight"])
    w.add_tensor("output.weight", half("head.weight"))
    for i in range(LAYERS):
        a, b = f"layers.{i}.", f"blk.{i}."
        w.add_tensor(b + "attn_norm.weight", p[a + "attn_norm.weight"])
        w.add_tensor(b + "attn_q.weight", interleave(half(a + "q.weight"), Q_HEADS))
        w.add_tensor(b + "attn_k.weight", interleave(half(a + "k.weight"), KV_HEADS))
        w.add_tensor(b + "attn_v.weight", half(a + "v.weight"))
        w.add_tensor(b + "attn_output.weight", half(a + "o.weight"))
        w.add_tensor(b + "ffn_norm.weight", p[a + "ffn_norm.weight"])
        w.add_tensor(b + "ffn_gate.weight", half(a + "gate.weight"))
        w.add_tensor(b + "ffn_up.weight", half(a + "up.weight"))
        w.add_tensor(b + "ffn_down.weight", half(a + "down.weight"))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--text", nargs="+", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--state", default="state.pt")
    ap.add_argument("--megabytes", type=float, default=30)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--lr", type=float, default=0.003)
    ap.add_argument("--compile", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    text, held = load_text(args.text)
    print(f"text {len(text)} bytes, held out {len(held)} bytes", flush=True)
    model = Model()
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    seen, spent = 0, 0.0
    if os.path.exists(args.state):
        s = torch.load(args.state, weights_only=False)
        model.load_state_dict(s["model"]); adam.load_state_dict(s["adam"])
        muon.momentum, seen, spent, rng = s["muon"], s["seen"], s["spent"], s["rng"]
    forward = torch.compile(model, dynamic=False) if args.compile else model
    start, step, last = time.time() - spent, 0, spent
    total = args.megabytes * 1e6
    recent = []
    while seen < total:
        share, used = seen / total, time.time() - start
        length, step_bytes, mixture = next(stage[1:] for stage in STAGES if share < stage[0])
        lr = min(1.0, (seen + 1) / 4e5) * min(1.0, (1 - share) / 0.2 + 0.03)
        tokens, target, weight = batch(text, rng, length, step_bytes // length, mixture)
        cos, sin = rope_tables(length)
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(tokens, cos, sin)
            loss_all = F.cross_entropy(logits.view(-1, VOCAB), target.reshape(-1), reduction="none")
        w = weight.reshape(-1)
        loss = (loss_all * w).sum() / w.sum()
        loss.backward()
        muon.step(args.lr * lr)
        for group in adam.param_groups:
            group["lr"] = 2e-3 * lr
        adam.step()
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            plain = loss_all[: length * (max(1, int(tokens.shape[0] * mixture[0])))].mean().item() / math.log(2)
            first, rest = (loss_all[w == k].mean().item() / math.log(2) for k in (ANSWER[0].item(), ANSWER[1].item()))
        recent.append((plain, first, rest))
        seen += tokens.numel(); step += 1
        if step % 100 == 0:
            m = np.nanmean(np.array(recent[-100:]), axis=0)
            print(f"{used/60:6.1f} min  {seen/1e6:7.2f} MB  length {length}  text {m[0]:.3f} bpb  first digit {m[1]:.3f}, others {m[2]:.3f} bits  lr {lr:.2f}  {seen/used:.0f} B/s", flush=True)
        if used - last > 400:
            last = used
            print(json.dumps(evaluate(model, held, length)), flush=True)
            torch.save({"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.momentum, "seen": seen,
                        "spent": time.time() - start, "rng": rng}, args.state)
            export(model, args.out, f"{seen} bytes seen")
    for n in (512, CONTEXT):
        print(json.dumps(evaluate(model, held, n, windows=64)), flush=True)
    torch.save({"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.momentum, "seen": seen, "spent": time.time() - start, "rng": rng}, args.state)
    export(model, args.out, f"byte-level reference model of kvslim; {seen} bytes seen")


if __name__ == "__main__":
    main()
