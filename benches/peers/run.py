#!/usr/bin/env python3
"""Handloom beside its peers: both sides measured in turns, in one run, as ratios.

Machines have good and bad minutes. So ours and a peer alternate, group by group, for several
rounds (ours first in one, the peer first in the next), each round gives one ratio a row, and the
median of the ratios is told with the smallest and the largest. A ratio above 1: ours is faster.

  cargo build --release
  python3 benches/peers/run.py                               PyTorch, every group, 5 rounds
  python3 benches/peers/run.py --only gemm,train --rounds 9
  python3 benches/peers/run.py --peer crates --only gemm     candle, gemm (built from crates/)
  python3 benches/peers/run.py --markdown table.md           also as a table for docs/
  python3 benches/peers/run.py --memory                      peak memory of the training steps

Flags of a peer's other settings are its environment: for AVX2 on both sides
  HANDLOOM_ISA=avx2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 … --dtypes f32
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GROUPS = ["gemm", "rowops", "optim", "attention", "rnn", "train", "decode"]


def rows(command):
    """Runs a program that prints JSON rows; {(op, shape, dtype): row}, the peer's name in front."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"run.py: {' '.join(map(str, command))} failed ({done.returncode}):\n{done.stderr}")
    table = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        if row.get("median_s"):
            key = (row["op"], row["shape"], row["dtype"])
            table.setdefault(row.get("peer", ""), {})[key] = row
    return table


def peak_memory(command):
    """MiB that a process held at most (its resident set), libraries and all."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"run.py: {' '.join(map(str, command))} failed")
    return usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024 * 1024)


def memory(args, threads):
    """A table of both sides' peak memory in training."""
    print("| train_step, peak memory | ours | torch | ours / torch |\n|---|---|---|---|")
    for model in ("char-cpu", "char-gpu", "bpe-small", "gpt2-124m"):
        flags = ["--only", "train", "--shapes", model, *threads]
        ours = peak_memory([args.handloom, "bench", "--no-roofs", "--unchecked", *flags])
        theirs = peak_memory([args.python, HERE / "torch_rows.py", "--dtypes", "f32", *flags])
        print(f"| {model} | {ours:.0f} MiB | {theirs:.0f} MiB | {ours / theirs:.2f} |", flush=True)


def speed(row):
    """The figure of a row in its unit."""
    if row.get("tokens_per_s"):
        return f"{row['tokens_per_s']:,.0f} tok/s"
    if row.get("gflops"):
        return f"{row['gflops']:.0f} GFLOP/s"
    return f"{row['gbs']:.1f} GB/s"


def table_of(title, ratios, latest):
    """The Markdown table: of each row the median round, its ratio, and the range of all."""
    lines = [f"| operation | shape | dtype | ours | {title} | ratio | range |", "|" + "---|" * 7]
    for (who, key), values in ratios.items():
        middle = sorted(range(len(values)), key=values.__getitem__)[len(values) // 2]
        mine, other = latest[(who, key)][middle]
        theirs = speed(other) + (f" ({who})" if who else "")
        lines.append(
            f"| {key[0]} | {key[1]} | {key[2]} | {speed(mine)} | {theirs} "
            f"| {statistics.median(values):.2f} | {min(values):.2f}-{max(values):.2f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=["torch", "crates"], default="torch")
    parser.add_argument("--only", default="", help=f"groups: {','.join(GROUPS)}")
    parser.add_argument("--shapes", default="", help="only these shapes")
    parser.add_argument("--dtypes", default="f32,bf16", help="of the peer torch; beside its f32 stand our f32 and high")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--handloom", default=ROOT / "target/release/handloom")
    parser.add_argument("--crates", default=HERE / "crates/target/release/handloom-peers")
    parser.add_argument("--python", default=sys.executable, help="one that has torch")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--markdown", help="write the table here")
    args = parser.parse_args()
    known = GROUPS if args.peer == "torch" else ["gemm", "train"]
    groups = args.only.split(",") if args.only else known
    for group in groups:
        if group not in known:
            sys.exit(f"run.py: no group {group} for {args.peer}; there are {', '.join(known)}")

    threads = ["--threads", str(args.threads)]
    if args.memory:
        return memory(args, threads)
    shapes = ["--shapes", args.shapes] if args.shapes else []
    ours_only = args.dtypes.replace("f32", "f32,high") if args.peer == "torch" else "f32"
    if args.peer == "torch":
        peer = [args.python, HERE / "torch_rows.py", *shapes, "--dtypes", args.dtypes]
    else:
        peer = [args.crates]
        print(subprocess.run([args.crates, "--features"], stdout=subprocess.PIPE, text=True).stdout)

    ratios, latest = {}, {}
    for number in range(args.rounds):
        # Results are compared with f64 in the first round.
        ours = [args.handloom, "bench", "--json", "--no-roofs", *shapes, "--dtypes", ours_only]
        ours += ["--unchecked"] if number else []
        for group in groups:
            flags = ["--only", group, *threads]
            sides = [("ours", ours + flags), ("theirs", peer + flags)]
            if number % 2:
                sides.reverse()
            found = {side: rows(command) for side, command in sides}
            mine = found["ours"][""]
            for who, table in found["theirs"].items():
                for key, row in mine.items():
                    # What is as exact as f32 is compared with f32.
                    other = table.get((*key[:2], "f32" if key[2] == "high" else key[2]))
                    if other:
                        ratios.setdefault((who, key), []).append(other["median_s"] / row["median_s"])
                        latest.setdefault((who, key), []).append((row, other))
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr, flush=True)
        if args.markdown:  # after each round: what there is so far
            pathlib.Path(args.markdown).write_text(table_of(args.peer, ratios, latest) + "\n")
    print(table_of(args.peer, ratios, latest))


if __name__ == "__main__":
    main()
