//! candle and gemm at the work of `handloom bench`: one JSON row a line, with a key `peer`.
//!
//! ```text
//! handloom-peers --only gemm,train --threads 2
//! handloom-peers --features                       what they were built with
//! ```

mod gpt;

use std::time::Instant;

use candle_core::{Device, Tensor};
use serde_json::json;

/// A row of `peer`: the median of half a second of samples.
fn row(
    peer: &str,
    op: &str,
    shape: &str,
    threads: usize,
    flops: f64,
    tokens: Option<f64>,
    mut run: impl FnMut(),
) {
    run();
    let start = Instant::now();
    run();
    let inner = ((2e-3 / start.elapsed().as_secs_f64()) as usize).max(1);
    let (mut samples, start) = (Vec::new(), Instant::now());
    while samples.len() < 7 || (start.elapsed().as_secs_f64() < 0.5 && samples.len() < 400) {
        let sample = Instant::now();
        (0..inner).for_each(|_| run());
        samples.push(sample.elapsed().as_secs_f64() / inner as f64);
    }
    samples.sort_by(f64::total_cmp);
    let median = samples[samples.len() / 2];
    println!(
        "{}",
        json!({
            "peer": peer, "op": op, "shape": shape, "dtype": "f32", "threads": threads,
            "median_s": median, "gflops": flops / median / 1e9, "gbs": null,
            "tokens_per_s": tokens.map(|tokens| tokens / median),
        })
    );
}

const SHAPES: [[usize; 3]; 14] = [
    [64, 64, 64],
    [128, 128, 128],
    [256, 256, 256],
    [512, 512, 512],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [768, 384, 128],
    [512, 2304, 768],
    [512, 3072, 768],
    [512, 768, 3072],
    [256, 50257, 768],
    [1, 768, 768],
    [1, 3072, 768],
    [8, 768, 768],
];
const TRANSPOSED: [[usize; 3]; 2] = [[512, 768, 3072], [1024, 1024, 1024]];

fn products(threads: usize) -> candle_core::Result<()> {
    let plain = SHAPES.iter().map(|&shape| ("gemm_nn", shape, false, false));
    let nt = TRANSPOSED.iter().map(|&shape| ("gemm_nt", shape, false, true));
    let tn = TRANSPOSED.iter().map(|&shape| ("gemm_tn", shape, true, false));
    for (op, [m, n, k], ta, tb) in plain.chain(nt).chain(tn) {
        let (name, flops) = (format!("{m}x{n}x{k}"), 2.0 * (m * n * k) as f64);
        let random = |shape: (usize, usize)| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
        let a = if ta { random((k, m))?.t()? } else { random((m, k))? };
        let b = if tb { random((n, k))?.t()? } else { random((k, n))? };
        row("candle", op, &name, threads, flops, None, || {
            std::hint::black_box(a.matmul(&b).expect("a product"));
        });

        let (a, b) = (vec![1f32; m * k], vec![1f32; k * n]);
        let mut c = vec![0f32; m * n];
        let strides = |transposed: bool, rows: usize, cols: usize| {
            if transposed { (rows as isize, 1) } else { (1, cols as isize) }
        };
        let ((a_col, a_row), (b_col, b_row)) = (strides(ta, m, k), strides(tb, k, n));
        let parallelism = match threads {
            1 => gemm::Parallelism::None,
            n => gemm::Parallelism::Rayon(n),
        };
        row("gemm", op, &name, threads, flops, None, || {
            // SAFETY: the three vectors hold matrices of these sizes and strides.
            unsafe {
                gemm::gemm(
                    m, n, k, c.as_mut_ptr(), 1, n as isize, false, a.as_ptr(), a_col, a_row,
                    b.as_ptr(), b_col, b_row, 0.0, 1.0, false, false, false, parallelism,
                );
            }
            std::hint::black_box(&mut c);
        });
    }
    Ok(())
}

fn main() -> candle_core::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    if arguments.iter().any(|argument| argument == "--features") {
        let on = |on: bool| if on { "on" } else { "off" };
        let v4 = on(cfg!(feature = "x86-v4"));
        println!("candle 0.9 (no mkl, no accelerate; gemm 0.18 inside)");
        println!("gemm 0.19 (x86-v4: {v4})");
        return Ok(());
    }
    let threads = value("--threads").and_then(|n| n.parse().ok()).unwrap_or(1);
    // Both read this once, before their first product.
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("threads");
    let only = value("--only").unwrap_or_else(|| "gemm,train".into());
    for group in only.split(',') {
        match group {
            "gemm" => products(threads)?,
            "train" => gpt::train(threads)?,
            other => panic!("no group {other}; there are gemm, train"),
        }
    }
    Ok(())
}
