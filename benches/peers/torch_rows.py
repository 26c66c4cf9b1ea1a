#!/usr/bin/env python3
"""PyTorch on the CPU at the work of `handloom bench`: the same operations, shapes and counts.

One JSON object a line, with the keys op, shape, dtype, threads, median_s, gflops, gbs, tokens_per_s.
Needs torch. Usually called by run.py, which alternates it with ours.

  python3 torch_rows.py --threads 2 --only gemm,attention
  python3 torch_rows.py --only train --shapes char-cpu,char-gpu --dtypes f32
"""
import argparse
import json
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Bench:
    """Measures rows that the flags ask for."""

    def __init__(self, args):
        self.threads = torch.get_num_threads()
        self.seconds = args.seconds
        self.shapes = set(args.shapes.split(",")) if args.shapes else None
        self.dtypes = args.dtypes.split(",")

    def wants(self, shape, dtype="f32"):
        return dtype in self.dtypes and (self.shapes is None or shape in self.shapes)

    def row(self, op, shape, dtype, run, flops=None, traffic=None, tokens=None):
        """Times `run` and prints its row. Short work is repeated within a sample of 2 ms."""
        run()
        start = time.perf_counter()
        run()
        inner = max(1, int(2e-3 / max(time.perf_counter() - start, 1e-8)))
        samples, begun = [], time.perf_counter()
        while len(samples) < 7 or (
            time.perf_counter() - begun < self.seconds and len(samples) < 400
        ):
            start = time.perf_counter()
            for _ in range(inner):
                run()
            samples.append((time.perf_counter() - start) / inner)
        median = statistics.median(samples)
        rate = lambda amount, unit: amount / median / unit if amount else None
        print(json.dumps({
            "op": op, "shape": shape, "dtype": dtype, "threads": self.threads,
            "median_s": median, "gflops": rate(flops, 1e9), "gbs": rate(traffic, 1e9),
            "tokens_per_s": rate(tokens, 1),
        }), flush=True)


def gemm(bench):
    square = [(n, n, n) for n in (64, 128, 256, 512, 1024, 2048)]
    layers = [(768, 384, 128), (512, 2304, 768), (512, 3072, 768), (512, 768, 3072),
              (256, 50257, 768), (1, 768, 768), (1, 3072, 768), (8, 768, 768)]
    for dtype, kind in DTYPES.items():
        for m, n, k in square + layers:
            name = f"{m}x{n}x{k}"
            if bench.wants(name, dtype):
                a, b = torch.randn(m, k, dtype=kind), torch.randn(k, n, dtype=kind)
                bench.row("gemm_nn", name, dtype, lambda: a @ b, flops=2 * m * n * k)
        for m, n, k in [(512, 768, 3072), (1024, 1024, 1024)]:
            name = f"{m}x{n}x{k}"
            if bench.wants(name, dtype):
                a, bt = torch.randn(m, k, dtype=kind), torch.randn(n, k, dtype=kind)
                bench.row("gemm_nt", name, dtype, lambda: a @ bt.t(), flops=2 * m * n * k)
                at, b = torch.randn(k, m, dtype=kind), torch.randn(k, n, dtype=kind)
                bench.row("gemm_tn", name, dtype, lambda: at.t() @ b, flops=2 * m * n * k)


def rowops(bench):
    rows, cols = 2048, 768
    name, size = f"{rows}x{cols}", rows * cols * 4
    x, dy = torch.randn(rows, cols), torch.randn(rows, cols)
    w, b = torch.randn(cols, requires_grad=True), torch.randn(cols, requires_grad=True)
    leaf = x.clone().requires_grad_()
    grad = torch.autograd.grad
    if bench.wants(name):
        plain_w, plain_b = w.detach(), b.detach()
        bench.row("layernorm_fwd", name, "f32",
                  lambda: F.layer_norm(x, (cols,), plain_w, plain_b), traffic=2 * size)
        bench.row("layernorm_fwdbwd", name, "f32",
                  lambda: grad(F.layer_norm(leaf, (cols,), w, b), (leaf, w, b), dy),
                  traffic=5 * size)
        bench.row("softmax_fwd", name, "f32", lambda: F.softmax(x, -1), traffic=2 * size)
        bench.row("gelu_fwd", name, "f32", lambda: F.gelu(x, approximate="tanh"), traffic=2 * size)
        bench.row("gelu_fwdbwd", name, "f32",
                  lambda: grad(F.gelu(leaf, approximate="tanh"), leaf, dy), traffic=5 * size)
        bench.row("relu_fwd", name, "f32", lambda: F.relu(x), traffic=2 * size)
        bench.row("add", name, "f32", lambda: x + dy, traffic=3 * size)
    if bench.wants("1024x8192"):
        logits = torch.randn(1024, 8192, requires_grad=True)
        targets = torch.randint(0, 8192, (1024,))
        bench.row("cross_entropy_fwdbwd", "1024x8192", "f32",
                  lambda: grad(F.cross_entropy(logits, targets), logits),
                  traffic=3 * 1024 * 8192 * 4)
    if bench.wants("2048x4096x384"):
        table = torch.randn(4096, 384, requires_grad=True)
        ids, out = torch.randint(0, 4096, (2048,)), torch.randn(2048, 384)
        bench.row("embedding_fwdbwd", "2048x4096x384", "f32",
                  lambda: grad(F.embedding(ids, table), table, out),
                  traffic=4 * (3 * 2048 * 384 + 4096 * 384))
    if bench.wants("64MiB"):
        src = torch.randn(64 * 1024 * 1024 // 4)
        dst = torch.empty_like(src)
        bench.row("copy", "64MiB", "f32", lambda: dst.copy_(src), traffic=2 * src.numel() * 4)


def optim(bench):
    """AdamW in PyTorch's fastest setting, `fused=True`."""
    if not bench.wants("16x768x768"):
        return
    weights = [torch.randn(768, 768, requires_grad=True) for _ in range(16)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    step = torch.optim.AdamW(weights, lr=1e-3, fused=True).step
    bench.row("adamw_fused", "16x768x768", "f32", step, traffic=16 * 768 * 768 * 4 * 7)


def attention(bench):
    shapes = [(8, 4, 64, 32), (4, 6, 256, 64), (4, 12, 1024, 64), (1, 12, 4096, 64)]
    for dtype, kind in DTYPES.items():
        for b, h, t, d in shapes:
            name = f"B{b}H{h}T{t}D{d}"
            if not bench.wants(name, dtype):
                continue
            q, k, v = (torch.randn(b, h, t, d, dtype=kind, requires_grad=True) for _ in range(3))
            dy = torch.randn(b, h, t, d, dtype=kind)
            run = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
            flops = 4 * b * h * t * t * d // 2
            with torch.no_grad():
                bench.row("attention_causal_fwd", name, dtype, run, flops=flops)
            bench.row("attention_causal_fwdbwd", name, dtype,
                      lambda: torch.autograd.grad(run(), (q, k, v), dy), flops=int(3.5 * flops))


def rnn(bench):
    for op, layer, gates in (("rnn", nn.RNN, 1), ("lstm", nn.LSTM, 4), ("gru", nn.GRU, 3)):
        for b, t, i, h in [(32, 64, 128, 128), (32, 35, 512, 512)]:
            name = f"B{b}T{t}I{i}H{h}"
            if not bench.wants(name):
                continue
            module = layer(i, h, batch_first=True)
            x, dy = torch.randn(b, t, i, requires_grad=True), torch.randn(b, t, h)
            leaves = [x, *module.parameters()]
            bench.row(f"{op}_fwdbwd", name, "f32",
                      lambda: torch.autograd.grad(module(x)[0], leaves, dy),
                      flops=6 * b * t * gates * h * (i + h), tokens=b * t)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, cache=None, seen=0):
        """With a cache of keys and values [B, H, context, D]: the t tokens after those `seen`."""
        b, t, c = x.shape
        qkv = self.c_attn(self.ln_1(x)).view(b, t, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if cache is not None:
            for kept, new in zip(cache, (k, v)):
                kept[:, :, seen : seen + t] = new
            k, v = (kept[:, :, : seen + t] for kept in cache)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, vocab, context, layers, heads, width):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, ids, caches=None, seen=0):
        x = self.wte(ids) + self.wpe.weight[seen : seen + ids.shape[1]]
        for i, block in enumerate(self.h):
            x = block(x, caches and caches[i], seen)
        return F.linear(self.ln_f(x), self.wte.weight)


# vocabulary, context, layers, heads, width, batch
MODELS = {
    "char-cpu": (65, 64, 4, 4, 128, 12),
    "char-gpu": (65, 256, 6, 6, 384, 16),
    "bpe-small": (4096, 256, 6, 6, 384, 8),
    "gpt2-124m": (50257, 64, 12, 12, 768, 4),
}


def train(bench):
    for name, (vocab, context, layers, heads, width, batch) in MODELS.items():
        for dtype in DTYPES:
            if not bench.wants(name, dtype):
                continue
            torch.manual_seed(0)
            model = GPT(vocab, context, layers, heads, width)
            adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
            ids, targets = (torch.randint(0, vocab, (batch, context)) for _ in range(2))

            def step():
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
                    logits = model(ids)
                    loss = F.cross_entropy(logits.view(-1, vocab).float(), targets.view(-1))
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                adamw.step()
                adamw.zero_grad(set_to_none=True)

            n = sum(p.numel() for p in model.parameters())
            flops = 6 * n * batch * context + 6 * layers * batch * context * context * width
            bench.row("train_step", name, dtype, step, flops=flops, tokens=batch * context)


def decode(bench):
    """Reading one text; writing the second half of it token by token, with a cache of keys and values."""
    for name in ("char-cpu", "gpt2-124m"):
        if bench.wants(name):
            vocab, context, layers, heads, width, _ = MODELS[name]
            model = GPT(vocab, context, layers, heads, width).eval()
            ids = torch.randint(0, vocab, (1, context))
            with torch.inference_mode():
                bench.row("prefill", name, "f32", lambda: model(ids), tokens=context)
            for dtype in ("f32", "bf16"):
                kind = torch.bfloat16 if dtype == "bf16" else torch.float32
                model = model.to(kind)
                with torch.inference_mode():
                    shape = (1, heads, context, width // heads)
                    caches = [[torch.zeros(shape, dtype=kind) for _ in "kv"] for _ in range(layers)]
                    half = context // 2
                    model(ids[:, :half], caches)
                    seen = half

                    def token():
                        nonlocal seen
                        seen = half if seen == context else seen
                        model(ids[:, seen : seen + 1], caches, seen)
                        seen += 1

                    bench.row("decode", name, dtype, token, tokens=1)


GROUPS = {f.__name__: f for f in (gemm, rowops, optim, attention, rnn, train, decode)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    parser.add_argument("--only", default=",".join(GROUPS), help="groups: %(default)s")
    parser.add_argument("--shapes", default="", help="only these shapes")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--seconds", type=float, default=0.5, help="of samples a row")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    bench = Bench(args)
    for name in args.only.split(","):
        if name not in GROUPS:
            sys.exit(f"torch_rows.py: no group {name}; there are {', '.join(GROUPS)}")
        GROUPS[name](bench)


if __name__ == "__main__":
    main()
