#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
"""Trains Fast KVzip's gate for a model of train.py and writes it as one GGUF file.

    python3 train_gate.py --text DIR [DIR ...] --model kvslim-reference.gguf

As arXiv:2601.17668 and its code (Janghyun1230/FastKVzip 7d78b34, optim.py): beside every layer a
gate reads what the layer reads and says of each token how much KVzip would have it attended, by
binary cross-entropy, with momentum and steps of 1000 tokens whose rate falls at half and three
quarters of the way. Their training adds the gates' offsets twice and their inference once; here it
is once. Text is that of train.py, its held-out part left out, in half of the windows with facts
scattered in it as train.py does (never a held-out name). KVzip's second pass is the comparison's:
stretches of 120 bytes, each led in by the 8 before it.

Needs torch, numpy and gguf (all on PyPI). --text takes the folders that the model was trained on
(MODEL_CARD.md).
"""
import argparse, os, time
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from train import (BOS, CONTEXT, HEAD_DIM, LAYERS, WIDTH, Builder, Model, code, excerpt, load_text,
                   read_gguf, rope_tables, word)

STRETCH, LEAD = 120, 8
SINKS = 4  # first tokens that kvslim's scorer keeps unasked


def window(text, rng, length):
    """Text, in half of the windows with facts in it."""
    facts = int(np.exp(rng.uniform(0, np.log(length // 80)))) if rng.random() < 0.5 else 0
    told = [f"\nRemember {word(rng, False)} {code(rng)}.\n" for _ in range(facts)]
    filler = length - 1 - sum(map(len, told))
    cuts = [0, *np.sort(rng.integers(0, filler + 1, facts)), filler]
    body, b = excerpt(text, rng, filler), Builder(length)
    for i in range(facts + 1):
        b.add(body[cuts[i] : cuts[i + 1]], 1.0)
        if i < facts:
            b.add(told[i], 1.0)
    return b.done()[0].astype(np.int64)


@torch.no_grad()
def look(model, tokens):
    """What each layer's gate reads, [layer, token, width], and KVzip's scores, [layer, KV head,
    token]."""
    n, group = len(tokens), model.q_heads // model.kv_heads
    cos, sin = rope_tables(n + STRETCH + LEAD)
    x = model.embed(torch.from_numpy(tokens)[None])
    cache, states = [], []
    for layer in model.layers:
        states.append(layer.attn_norm(x)[0])
        cache.append(layer.heads(x, cos[:n], sin[:n])[1:])
        x = layer(x, cos[:n], sin[:n])
    # All stretches at once; the first has nothing before it, so padding takes the lead's place and
    # is not looked at.
    begins = list(range(0, n, STRETCH))
    wide, parts = STRETCH + LEAD, len(begins)
    again = np.full((parts, wide), BOS, np.int64)
    real = torch.zeros(parts, wide, dtype=torch.bool)
    places = torch.zeros(parts, wide, dtype=torch.long)  # of each query behind the text
    for i, begin in enumerate(begins):
        first, end = max(0, begin - LEAD), min(n, begin + STRETCH)
        again[i, : end - first] = tokens[first:end]
        real[i, : end - first] = True
        places[i, : end - first] = torch.arange(end - first)
    x = model.embed(torch.from_numpy(again))
    own = torch.ones(wide, wide, dtype=torch.bool).tril()
    scores = torch.zeros(LAYERS, model.kv_heads, n)
    cos, sin = cos[n : n + wide], sin[n : n + wide]
    for l, layer in enumerate(model.layers):
        q, k, v = layer.heads(x, cos, sin)
        K = torch.cat((cache[l][0].expand(parts, -1, -1, -1), k), 2)
        V = torch.cat((cache[l][1].expand(parts, -1, -1, -1), v), 2)
        logits = q @ K.transpose(2, 3) / HEAD_DIM**0.5
        logits[..., n:].masked_fill_(~own, -torch.inf)
        for i, begin in enumerate(begins):
            end = min(n, begin + STRETCH)
            seen = torch.cat((torch.arange(min(SINKS, begin)), torch.arange(begin, end),
                              torch.arange(n, n + wide)))
            paid = logits[i][:, real[i]][..., seen].softmax(-1)
            paid = paid[..., min(SINKS, begin) : min(SINKS, begin) + end - begin].amax(1)
            scores[l, :, begin:end] = paid.unflatten(0, (model.kv_heads, group)).amax(1)
        x = x + layer.o((logits.softmax(-1) @ V).transpose(1, 2).flatten(2))
        h = layer.ffn_norm(x)
        x = x + layer.down(F.silu(layer.gate(h)) * layer.up(h))
    return torch.stack(states), scores


class Gates(nn.Module):
    """A gate for every layer, all at once."""

    def __init__(self, q_heads, kv_heads, dim, sinks):
        super().__init__()
        self.kv_heads, self.dim = kv_heads, dim
        bound = WIDTH**-0.5  # torch's own start of linear layers
        uniform = lambda *shape: nn.Parameter(torch.empty(LAYERS, *shape).uniform_(-bound, bound))
        self.query, self.query_bias = uniform(WIDTH, q_heads * dim), uniform(1, q_heads * dim)
        self.key = uniform(WIDTH, kv_heads * dim)
        self.query_gain = nn.Parameter(torch.ones(LAYERS, 1, 1, 1, dim))
        self.key_gain = nn.Parameter(torch.ones(LAYERS, 1, 1, 1, dim))
        self.sinks = nn.Parameter(torch.zeros(LAYERS, 1, kv_heads, sinks, dim))
        self.offset = nn.Parameter(torch.zeros(LAYERS, 1, kv_heads, q_heads // kv_heads))

    def forward(self, h):
        """h [layer, token, width] to [layer, KV head, token], in (0, 1)."""
        shape = (*h.shape[:2], self.kv_heads, -1, self.dim)
        normal = lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        q = normal((h @ self.query + self.query_bias).view(shape)) * self.query_gain
        k = normal((h @ self.key).view(shape)) * self.key_gain
        mine = (q * k).sum(-1) / self.dim**0.5 + self.offset
        others = q @ self.sinks.transpose(3, 4) / self.dim**0.5
        return (1 / (1 + (others - mine[..., None]).exp().sum(-1))).mean(-1).transpose(1, 2)


def shared(scores, guess, share):
    """Of the share of all tokens of all layers that is best by scores, what is so by the guess."""
    n = int(scores.numel() * share)
    best = [torch.zeros(scores.numel()).scatter(0, s.flatten().topk(n).indices, 1.0)
            for s in (scores, guess)]
    return (best[0] * best[1]).sum().item() / n


def export(gates, path, note):
    import gguf

    w = gguf.GGUFWriter(path, "fastkvzip-gate")
    w.add_name("kvslim-reference-fastkvzip")
    w.add_description(note)
    w.add_license("apache-2.0")
    w.add_block_count(LAYERS)
    w.add_uint32("fastkvzip.dim", gates.dim)
    w.add_uint32("fastkvzip.sinks", gates.sinks.shape[3])
    f = {name: p.detach() for name, p in gates.named_parameters()}
    for i in range(LAYERS):
        add = lambda name, p, to=np.float32: w.add_tensor(
            f"blk.{i}.gate_{name}.weight", np.ascontiguousarray(p.numpy(), to))
        add("query", f["query"][i].T, np.float16)
        add("query_bias", f["query_bias"][i].view(-1, gates.dim))
        add("query_gain", f["query_gain"][i].view(1, -1))
        add("key", f["key"][i].T, np.float16)
        add("key_gain", f["key_gain"][i].view(1, -1))
        add("sinks", f["sinks"][i].view(-1, gates.dim))
        add("offset", f["offset"][i].view(gates.kv_heads, -1))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--text", nargs="+", required=True, help="folders of plain text")
    ap.add_argument("--model", required=True, help="a GGUF of train.py")
    ap.add_argument("--out", help="the GGUF to write (the model's name, -fastkvzip before .gguf)")
    ap.add_argument("--windows", type=int, default=180, help="of 1856 tokens (authors: 340000)")
    ap.add_argument("--steps", type=int, default=5000, help="of 1000 tokens (authors)")
    ap.add_argument("--dim", type=int, default=16, help="of keys and queries (authors)")
    ap.add_argument("--sinks", type=int, default=16, help="learned sinks (authors)")
    ap.add_argument("--lr", type=float, default=0.2, help="(authors)")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--seen", help="a file to keep states and scores in, read if it exists")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    params, q_heads, kv_heads = read_gguf(args.model)
    start = time.time()
    if args.seen and os.path.exists(args.seen):
        states, scores = torch.load(args.seen)
    else:
        model = Model(q_heads, kv_heads)
        model.load_state_dict(params)
        text, _ = load_text(args.text)
        looks = [look(model, window(text, rng, CONTEXT - 192)) for _ in range(args.windows)]
        states = torch.stack([h[:, SINKS:] for h, _ in looks])
        scores = torch.stack([s[..., SINKS:] for _, s in looks])
        if args.seen:
            torch.save((states, scores), args.seen)
    print(f"{time.time() - start:.0f} s: looked twice at {len(states)} windows, the last four "
          "kept to test", flush=True)
    test_h, test_y = states[-4:], scores[-4:]
    h = states[:-4].transpose(0, 1).flatten(1, 2)
    y = scores[:-4].permute(1, 2, 0, 3).flatten(2)
    gates = Gates(q_heads, kv_heads, args.dim, args.sinks)
    optimizer = torch.optim.SGD(gates.parameters(), lr=args.lr, momentum=0.9)
    size, order = 1000, None
    for step in range(args.steps):
        at = step % (h.shape[1] // size) * size
        if at == 0:
            order = torch.randperm(h.shape[1])
        now = order[at : at + size]
        guess = gates(h[:, now])
        loss = F.binary_cross_entropy(guess, y[..., now], reduction="none").mean(-1).sum()
        rate = min(1.0, step / (0.01 * args.steps))  # the authors' warm-up, whatever the steps
        rate *= 1.0 if 2 * step < args.steps else 0.5 if 4 * step < 3 * args.steps else 0.25
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 250 == 0 or step == args.steps - 1:
            with torch.no_grad():
                guesses = [gates(w) for w in test_h]
                other = F.binary_cross_entropy(torch.stack(guesses), test_y,
                                               reduction="none").mean((0, 3)).sum().item()
                kept = [np.mean([shared(w, g, s) for w, g in zip(test_y, guesses)])
                        for s in (0.5, 0.25, 0.125)]
            print(f"{time.time() - start:5.0f} s  step {step:5}  loss {loss.item():.4f}, others "
                  f"{other:.4f}  of KVzip's best half, quarter, eighth: "
                  + ", ".join(f"{100 * k:.1f} %" for k in kept), flush=True)
    export(gates, args.out or args.model.removesuffix(".gguf") + "-fastkvzip.gguf",
           f"Fast KVzip's gate; {h.shape[1]} tokens, {args.steps} steps")


if __name__ == "__main__":
    main()
