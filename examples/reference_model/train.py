#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
"""Trains the byte-level llama-architecture reference model and writes it as one GGUF file.

    python3 train.py --text DIR [DIR ...] --out kvslim-reference.gguf --compile

Needs torch, numpy and gguf (all on PyPI). --text takes folders of plain text (see MODEL_CARD.md for
the Debian packages that the shipped model was trained on). Files whose path hash falls in 1/40 are
held out. FROM_SCRATCH says how context and mixture change: looking back is learned first, on short
sequences that are almost nothing but repeats (a model that has read text for 25 MB learns it far
more slowly), then text and facts scattered in text, at growing length. What nobody can predict (the
digits of a fact, the first copy of a string) carries no loss; what can be looked up does.

--from OLD.gguf starts from a model of the same width with fewer heads: a new KV head begins as the
old one that its query heads used, rescaled to what they look for, and query heads that the old
model lacks begin silent, so the new model first computes what the old one did. WARM_START then
replaces FROM_SCRATCH. --minutes ends the training by the clock where that comes before --megabytes.

A checkpoint (--state) is written every few minutes, and training continues from it when it exists.
"""
import argparse, glob, json, math, os, time, zlib
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

LAYERS, WIDTH, HEAD_DIM, FFN, VOCAB, CONTEXT = 6, 192, 64, 512, 256, 2048
ROPE_BASE = 10000.0
# (share of the training at which the stage ends, context, bytes a step,
#  share of rows: text, copies, pairs; the rest is facts)
FROM_SCRATCH = [
    (0.08, 128, 4096, (0.15, 0.40, 0.35)),
    (0.30, 256, 8192, (0.40, 0.08, 0.12)),
    (0.52, 512, 8192, (0.42, 0.04, 0.20)),
    (0.75, 1024, 8192, (0.46, 0.03, 0.15)),
    (1.01, 2048, 8192, (0.50, 0.03, 0.10)),
]
WARM_START = [(0.25, 1024, 8192, (0.46, 0.03, 0.15)), (1.01, 2048, 8192, (0.50, 0.03, 0.10))]
# Loss weights of an answer's digits: the first decides whose code it is, the others follow from it.
ANSWER = np.array([10, 2, 2, 2, 2], np.float32)
BOS = 0  # byte 0 opens every sequence: it never occurs in text and is where attention can rest


def rope_tables(length):
    freq = ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    angle = torch.outer(torch.arange(length).float(), freq)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    """Half-split pairs in training; export permutes to the interleaved pairs GGUF expects."""
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
    def __init__(self, q_heads, kv_heads):
        super().__init__()
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.q_heads, self.kv_heads = q_heads, kv_heads
        self.attn_norm, self.ffn_norm = Norm(), Norm()
        self.q = linear(WIDTH, q_heads * HEAD_DIM)
        self.k = linear(WIDTH, kv_heads * HEAD_DIM)
        self.v = linear(WIDTH, kv_heads * HEAD_DIM)
        self.o = linear(q_heads * HEAD_DIM, WIDTH)
        self.gate, self.up, self.down = linear(WIDTH, FFN), linear(WIDTH, FFN), linear(FFN, WIDTH)

    def heads(self, x, cos, sin):
        """Queries, keys and values, (batch, query head, position, dimension) each."""
        b, t, _ = x.shape
        h = self.attn_norm(x)
        split = lambda y, n: y.view(b, t, n, HEAD_DIM).transpose(1, 2)
        q = rotate(split(self.q(h), self.q_heads), cos, sin)
        k = rotate(split(self.k(h), self.kv_heads), cos, sin)
        v = split(self.v(h), self.kv_heads)
        group = self.q_heads // self.kv_heads
        return q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)

    def forward(self, x, cos, sin):
        y = F.scaled_dot_product_attention(*self.heads(x, cos, sin), is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self, q_heads, kv_heads):
        super().__init__()
        self.q_heads, self.kv_heads = q_heads, kv_heads
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(Layer(q_heads, kv_heads) for _ in range(LAYERS))
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


# ---- warm start ----------------------------------------------------------------------------------

# A parameter's name here, and its tensor's in a GGUF file; a layer's come after "blk.<number>.".
TENSORS = {"embed.weight": "token_embd.weight", "norm.weight": "output_norm.weight",
           "head.weight": "output.weight"}
LAYER_TENSORS = {"attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v",
                 "o": "attn_output", "ffn_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up",
                 "down": "ffn_down"}
for _i in range(LAYERS):
    for _name, _tensor in LAYER_TENSORS.items():
        TENSORS[f"layers.{_i}.{_name}.weight"] = f"blk.{_i}.{_tensor}.weight"


def read_gguf(path):
    """The parameters in a file that `export` wrote, and its numbers of query and KV heads."""
    import gguf

    reader = gguf.GGUFReader(path)
    count = lambda key: int(reader.fields[f"llama.attention.{key}"].parts[-1][0])
    data = {t.name: torch.from_numpy(np.array(t.data, np.float32)) for t in reader.tensors}
    params = {name: data[tensor] for name, tensor in TENSORS.items()}
    for name, w in params.items():
        if name.endswith((".q.weight", ".k.weight")):
            pairs = w.view(-1, HEAD_DIM // 2, 2, WIDTH)
            params[name] = pairs.transpose(1, 2).reshape(w.shape)
    return params, count("head_count"), count("head_count_kv")


@torch.no_grad()
def widen(model, path, noise):
    """Deals an old model's query heads evenly to the model's KV heads; without noise, it computes
    the same.

    Only products matter, query times key and output times value: so a KV head's keys are scaled,
    one RoPE pair at a time, until its queries and keys are equally large, and so are its values, by
    a singular value decomposition. What its query heads ignore thus becomes small in its cache.
    Each head also gets a basis of its own, as if it had been drawn on its own: its RoPE pairs are
    turned by random angles, its values by a random rotation. Copies part slowly all the same, so
    every KV head gets noise: `noise` times the size of its keys, half as much for values.
    """
    old, old_q, old_kv = read_gguf(path)
    kv, group, kept = model.kv_heads, model.q_heads // model.kv_heads, old_q // model.kv_heads
    if old_q % kv or kv % old_kv or kept > group:
        raise SystemExit(f"{old_q} query heads over {old_kv} do not fit {model.q_heads} over {kv}")
    for name, p in model.named_parameters():
        if name.split(".")[-2] not in "qkvo":
            p.copy_(old[name])
    for i, layer in enumerate(model.layers):
        q, k, v, o = (old[f"layers.{i}.{name}.weight"] for name in "qkvo")
        layer.o.weight.zero_()
        for j in range(kv):
            source = slice(j * old_kv // kv * HEAD_DIM, (j * old_kv // kv + 1) * HEAD_DIM)
            taken = slice(j * kept * HEAD_DIM, (j + 1) * kept * HEAD_DIM)
            own = slice(j * HEAD_DIM, (j + 1) * HEAD_DIM)
            first = slice(j * group * HEAD_DIM, (j * group + kept) * HEAD_DIM)
            size = lambda w: (w * layer.attn_norm.weight).view(
                -1, 2, HEAD_DIM // 2, WIDTH).square().mean((0, 1, 3)).sqrt()
            scale = (size(q[taken]) / size(k[source])).sqrt().repeat(2)[:, None]
            angle = 2 * math.pi * torch.rand(HEAD_DIM // 2)
            turn = lambda w: rotate(w.view(-1, HEAD_DIM, WIDTH).transpose(1, 2), angle.cos(),
                                    angle.sin()).transpose(1, 2).flatten(0, 1)
            layer.q.weight[first] = turn(q[taken] / scale.repeat(kept, 1))
            layer.k.weight[own] = turn(k[source] * scale)
            parts = o[:, taken].view(WIDTH, kept, HEAD_DIM).transpose(0, 1).flatten(0, 1)
            left, root, right = torch.linalg.svd(parts @ v[source], full_matrices=False)
            root = root[:HEAD_DIM].sqrt()
            values = root[:, None] * right[:HEAD_DIM]
            basis = torch.linalg.qr(torch.randn(HEAD_DIM, HEAD_DIM))[0]
            layer.v.weight[own] = basis @ values
            parts = (left[:, :HEAD_DIM] * root) @ basis.T
            layer.o.weight[:, first] = parts.view(kept, WIDTH, HEAD_DIM).transpose(0, 1).flatten(1)
            for w, size in ((layer.k.weight[own], noise), (layer.v.weight[own], noise / 2)):
                w += torch.randn_like(w) * w.square().mean().sqrt() * size


# ---- optimiser: Muon for matrices (orthogonalised momentum, Jordan 2024), AdamW for the rest -----


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


# ---- data ----------------------------------------------------------------------------------------


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
        pairs = ["bdfgklmnprstvz"[rng.integers(14)] + "aeiou"[rng.integers(5)] for _ in range(n)]
        w = "".join(pairs) + "nrslk"[rng.integers(5)]
        if (zlib.crc32(w.encode()) % 8 == 0) == held:
            return w


def code(rng):
    return "".join(str(d) for d in rng.integers(0, 10, 5))


class Builder:
    def __init__(self, length):
        self.tokens, self.weight = [np.array([BOS], np.uint8)], [np.zeros(1, np.float32)]
        self.left = length - 1

    def add(self, data, weight):
        if isinstance(data, str):
            data = np.frombuffer(data.encode(), np.uint8)
        data = data[: self.left]
        if np.ndim(weight) == 0:
            weight = np.full(len(data), weight)
        self.tokens.append(data)
        self.weight.append(weight[: len(data)].astype(np.float32))
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
    count = int(rng.integers(1, max(3, length // 64) + 1))
    strings = [rng.choice(letters, int(rng.integers(4, 14))) for _ in range(count)]
    known = set()
    while b.left > 0:
        i = int(rng.integers(count))
        b.add(" ", 0.1)
        b.add(strings[i][:1], 0.1)
        b.add(strings[i][1:], 1.0 if i in known else 0.0)
        known.add(i)
    return b.done()


def sample_pairs(text, rng, length):
    """A table of names and codes whose lines come again and again."""
    b = Builder(length)
    count = int(rng.integers(1, max(3, length // 64) + 1))
    table = [(word(rng, False), code(rng)) for _ in range(count)]
    known = set()
    while b.left > 0:
        i = int(rng.integers(count))
        b.add("\n" + table[i][0] + " ", 0.1)
        b.add(table[i][1], ANSWER if i in known else 0.0)
        known.add(i)
    return b.done()


def sample_recall(text, rng, length, facts=None, held=False):
    """Facts scattered in filler, every fact asked in random order, some again (several turns)."""
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


# ---- evaluation ----------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model, held, length, rows=8, windows=24, trials=3):
    cos, sin = rope_tables(length)
    rng = np.random.default_rng(7)
    nll = count = 0.0
    for w in range(windows):
        at = int(w * (len(held) - length - 1) / windows)
        t = np.concatenate(([BOS], held[at : at + length])).astype(np.int64)
        t = torch.from_numpy(t)[None]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(t[:, :-1], cos, sin)
        nll += F.cross_entropy(logits[0], t[0, 1:], reduction="sum").item()
        count += length
    result = {"length": length, "bits_per_byte": nll / count / math.log(2)}
    for name, facts in (("pass_key", 1), ("many_facts", max(2, length // 180))):
        right = asked = 0
        for _ in range(trials):
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


@torch.no_grad()
def compare_heads(model, held, length=CONTEXT, windows=8, recent=64):
    """How alike a layer's KV heads are, averaged over pairs of heads, layers and held-out windows.

    key_cosine: between the two heads' keys of a position. key_likeness: whether keys alike in one
    head are alike in the other, in whatever basis (linear CKA, Kornblith 2019; heads of a model
    before training: 0.82). overlap: of the quarter of positions that the last `recent` queries
    attend to most (0.25 is chance, 1 the same choice). norm_overlap: of the quarter with the
    smallest keys.
    """
    cos, sin = rope_tables(length)
    group, quarter = model.q_heads // model.kv_heads, length // 4
    mask = torch.arange(length) > torch.arange(length - recent, length)[:, None]
    heads = range(model.kv_heads)
    found = []
    for w in range(windows):
        at = int(w * (len(held) - length - 1) / windows)
        t = np.concatenate(([BOS], held[at : at + length - 1])).astype(np.int64)
        x = model.embed(torch.from_numpy(t)[None])
        for layer in model.layers:
            q, k, _ = layer.heads(x, cos, sin)
            logits = q[0, :, -recent:] @ k[0].transpose(1, 2) / math.sqrt(HEAD_DIM)
            mass = logits.masked_fill(mask, -math.inf).softmax(-1).mean(1)
            mass = mass.unflatten(0, (model.kv_heads, group)).mean(1)
            keys = layer.k(layer.attn_norm(x))[0].unflatten(1, (model.kv_heads, HEAD_DIM))
            keys = keys.transpose(0, 1)
            norms = keys.norm(dim=2)
            centred = keys - keys.mean(1, keepdim=True)
            like = torch.einsum("atd,bte->abde", centred, centred).square().sum((2, 3))
            keys = F.normalize(keys, dim=2)
            best = [torch.zeros_like(mass).scatter(1, score.topk(quarter).indices, 1.0)
                    for score in (mass, -norms)]
            like = like / (like.diagonal() * like.diagonal()[:, None]).sqrt()
            found += [((keys[a] * keys[b]).sum(1).mean(), like[a, b],
                       *((s[a] * s[b]).sum() / quarter for s in best))
                      for a in heads for b in heads if a < b]
            x = layer(x, cos, sin)
    mean = torch.tensor(found).mean(0).tolist()
    return dict(zip(("key_cosine", "key_likeness", "overlap", "norm_overlap"), mean))


# ---- export --------------------------------------------------------------------------------------


def export(model, path, note):
    import gguf

    w = gguf.GGUFWriter(path, "llama")
    w.add_name("kvslim-reference")
    w.add_description(note)
    w.add_license("apache-2.0")
    w.add_context_length(CONTEXT)
    w.add_embedding_length(WIDTH)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(FFN)
    w.add_head_count(model.q_heads)
    w.add_head_count_kv(model.kv_heads)
    w.add_key_length(HEAD_DIM)
    w.add_value_length(HEAD_DIM)
    w.add_rope_dimension_count(HEAD_DIM)
    w.add_rope_freq_base(ROPE_BASE)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(VOCAB)
    w.add_tokenizer_model("no_vocab")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    params = model.state_dict()
    for name, tensor in TENSORS.items():
        p = params[name].float()
        if name.endswith((".q.weight", ".k.weight")):  # half-split rows to interleaved rows
            p = p.view(-1, 2, HEAD_DIM // 2, WIDTH).transpose(1, 2).reshape(p.shape)
        w.add_tensor(tensor, p.numpy().astype(np.float16 if p.ndim == 2 else np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--text", nargs="+", required=True, help="folders of plain text")
    ap.add_argument("--out", required=True, help="the GGUF file to write")
    ap.add_argument("--from", dest="old", help="a GGUF of this script, with fewer heads, to widen")
    ap.add_argument("--noise", type=float, default=1.0, help="each KV head's own, with --from")
    ap.add_argument("--q-heads", type=int, default=8)
    ap.add_argument("--kv-heads", type=int, default=4)
    ap.add_argument("--state", default="state.pt", help="the checkpoint")
    ap.add_argument("--megabytes", type=float, default=30, help="how much to read")
    ap.add_argument("--minutes", type=float, default=math.inf, help="how long to train at most")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--lr", type=float, default=0.003)
    ap.add_argument("--decay", type=float, default=0.2, help="share at the end where --lr falls")
    ap.add_argument("--compile", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    text, held = load_text(args.text)
    print(f"text {len(text)} bytes, held out {len(held)} bytes", flush=True)
    model = Model(args.q_heads, args.kv_heads)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    matrices, others = [], []
    for name, p in model.named_parameters():
        (matrices if p.ndim == 2 and "layers" in name else others).append(p)
    muon, adam = Muon(matrices), torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    seen, spent = 0, 0.0
    if os.path.exists(args.state):
        s = torch.load(args.state, weights_only=False)
        model.load_state_dict(s["model"])
        adam.load_state_dict(s["adam"])
        muon.momentum, seen, spent, rng = s["muon"], s["seen"], s["spent"], s["rng"]
    elif args.old:
        widen(model, args.old, args.noise)
    stages = WARM_START if args.old else FROM_SCRATCH
    forward = torch.compile(model, dynamic=False) if args.compile else model
    start, step, last = time.time() - spent, 0, spent
    recent = []

    def save():
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.momentum,
                 "seen": seen, "spent": time.time() - start, "rng": rng}
        torch.save(state, args.state + ".new")
        os.replace(args.state + ".new", args.state)
        export(model, args.out, f"byte-level reference model of kvslim; {seen} bytes seen")

    while True:
        used = time.time() - start
        share = max(seen / (args.megabytes * 1e6), used / (args.minutes * 60))
        if share >= 1:
            break
        length, step_bytes, mixture = next(stage[1:] for stage in stages if share < stage[0])
        lr = min(1.0, (seen + 1) / 4e5) * min(1.0, (1 - share) / args.decay + 0.03)
        tokens, target, weight = batch(text, rng, length, step_bytes // length, mixture)
        cos, sin = rope_tables(length)
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(tokens, cos, sin)
            losses = F.cross_entropy(logits.view(-1, VOCAB), target.reshape(-1), reduction="none")
        w = weight.reshape(-1)
        loss = (losses * w).sum() / w.sum()
        loss.backward()
        muon.step(args.lr * lr)
        for group in adam.param_groups:
            group["lr"] = args.lr * lr * 2 / 3
        adam.step()
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            bits = losses / math.log(2)
            plain = bits[: length * max(1, int(tokens.shape[0] * mixture[0]))]
            first, others = (bits[w == size.item()] for size in ANSWER[:2])
            recent.append([part.mean().item() for part in (plain, first, others)])
        seen += tokens.numel()
        step += 1
        if step % 100 == 0:
            m = np.nanmean(recent[-100:], axis=0)
            print(f"{used / 60:6.1f} min  {seen / 1e6:7.2f} MB  length {length}"
                  f"  text {m[0]:.3f} bpb"
                  f"  first digit {m[1]:.3f}, others {m[2]:.3f} bits"
                  f"  lr {lr:.2f}  {seen / used:.0f} B/s", flush=True)
        if used - last > 400:
            last = used
            found = evaluate(model, held, length) | compare_heads(model, held)
            print(json.dumps(found), flush=True)
            save()
    save()
    for n in (512, CONTEXT):
        print(json.dumps(evaluate(model, held, n, windows=64)), flush=True)
    print(json.dumps(compare_heads(model, held)), flush=True)


if __name__ == "__main__":
    main()
