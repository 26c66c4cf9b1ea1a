"""The rows of tests/cuda/bench.rs in PyTorch: cuBLAS, and attention by both of its fast backends. One line of JSON a row."""
import json
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def row(name, unit, work, f, calls=10):
    """The best of five rounds."""
    try:
        f()
    except RuntimeError as error:
        print(json.dumps({"row": name, "skipped": str(error).splitlines()[0]}))
        return
    torch.cuda.synchronize()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            f()
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / calls)
    print(json.dumps({"row": name, "ms": round(best * 1e3, 4), unit: round(work / best / 1e12, 2)}))


def normal(*shape, dtype=torch.float32, grad=False):
    return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=grad)


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, m, n, k in [("linear 4096", 4096, 4096, 4096), ("linear gpt2", 65536, 2304, 768)]:
        for suffix, dtype in [("f32", torch.float32), ("bf16", torch.bfloat16)]:
            x, w = normal(m, k, dtype=dtype), normal(n, k, dtype=dtype)
            row(f"{name} {suffix}", "tflops", 2 * m * n * k, lambda: F.linear(x, w))
    dy, x = normal(65536, 2304, dtype=torch.bfloat16), normal(65536, 768, dtype=torch.bfloat16)
    row("weight gradient gpt2 bf16", "tflops", 2 * 65536 * 2304 * 768, lambda: dy.T @ x)
    b, h, t, d = 64, 12, 1024, 64
    work = 2 * b * h * t * t * d
    for backend in [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]:
        with sdpa_kernel(backend):
            q = normal(b, h, t, d, dtype=torch.bfloat16, grad=True)
            one = torch.ones_like(q)
            with torch.no_grad():
                row(f"attention forward bf16, {backend.name}", "tflops", work,
                    lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True))
            row(f"attention both bf16, {backend.name}", "tflops", 3.5 * work,
                lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True).backward(one))
    x, gain = normal(65536, 768), normal(768)
    elements = 4 * x.numel()
    row("layer_norm forward", "tb_per_s", 2 * elements, lambda: F.layer_norm(x, (768,), gain, gain))
    row("gelu forward", "tb_per_s", 2 * elements, lambda: F.gelu(x))
    row("add", "tb_per_s", 3 * elements, lambda: x + x)
    logits, ids = normal(8192, 50304), torch.randint(50304, (8192,), device="cuda")
    row("cross_entropy forward", "tb_per_s", 4 * logits.numel(), lambda: F.cross_entropy(logits, ids))


if __name__ == "__main__":
    main()
