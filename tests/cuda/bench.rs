//! Times on the GPU, one line of JSON a row; `kernels/gpu.sh` puts them beside those of `kernels/gpu_peers.py`, which
//! has the same names and shapes. On the emulator the shapes are tiny and the times mean nothing.

use std::time::Instant;

use handloom::autograd::{matmul_precision, no_grad};
use handloom::cpu::gemm::Precision;
use handloom::cpu::philox::Key;
use handloom::cuda::synchronize;
use handloom::ops::{self, Attention, CrossEntropy};
use handloom::{DType, Device, Result, Tensor};

const GPU: Device = Device::Cuda(0);

/// Numbers that are not zeros: products of zeros run faster.
fn random(shape: &[usize], stream: u64) -> Tensor {
    let x = Tensor::randn(shape, DType::F32, Key { seed: 1, stream, step: 0 });
    x.and_then(|x| x.to_device(GPU)).unwrap()
}

/// The best of five rounds, in seconds a call.
fn seconds(tiny: bool, f: &mut dyn FnMut() -> Result<()>) -> f64 {
    let calls = if tiny { 1 } else { 10 };
    f().unwrap();
    synchronize(0).unwrap();
    let round = |_| {
        let start = Instant::now();
        (0..calls).for_each(|_| f().unwrap());
        synchronize(0).unwrap();
        start.elapsed().as_secs_f64() / calls as f64
    };
    (0..if tiny { 1 } else { 5 }).map(round).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "computes on cuda:0"]
fn table() {
    let tiny = handloom::cuda::devices().unwrap()[0].name == "emulated GPU";
    println!(); // the name of the test stands on this line
    let s = |n: usize| if tiny { (n / 64).max(2) } else { n };
    let row = |name: &str, unit: &str, work: f64, f: &mut dyn FnMut() -> Result<()>| {
        let time = seconds(tiny, f);
        println!(
            "{{\"row\":\"{name}\",\"ms\":{:.4},\"{unit}\":{:.2}}}",
            time * 1e3,
            work / time / 1e12
        );
    };
    let bf16 = |f: &mut dyn FnMut() -> Result<()>| matmul_precision(Precision::Medium, f);
    // Products: y = x Wᵀ, and dW = dyᵀ x with a long k.
    for (name, m, n, k) in [("linear 4096", 4096, 4096, 4096), ("linear gpt2", 65_536, 2304, 768)] {
        let (m, n, k) = (s(m), s(n), s(k));
        let (x, w) = (random(&[m, k], 1), random(&[n, k], 2));
        let work = 2.0 * (m * n * k) as f64;
        let mut product = || ops::linear(&x, &w, None).map(|_| ());
        row(&format!("{name} f32"), "tflops", work, &mut product);
        row(&format!("{name} bf16"), "tflops", work, &mut || bf16(&mut product));
    }
    let (rows, n, k) = (s(65_536), s(2304), s(768));
    let (dy, x) = (random(&[rows, n], 3), random(&[rows, k], 4));
    let work = 2.0 * (rows * n * k) as f64;
    let mut wgrad = || dy.t()?.matmul(&x).map(|_| ());
    row("weight gradient gpt2 bf16", "tflops", work, &mut || bf16(&mut wgrad));
    // Attention, causal, heads of 64.
    let (b, h, t, d) = (s(512) / 8, 12, s(1024), 64);
    let q = random(&[b, h, t, d], 5).requires_grad_().unwrap();
    let options = Attention { causal: true, ..Attention::default() };
    let work = (2 * b * h * t * t * d) as f64;
    let attention = || ops::scaled_dot_product_attention(&q, &q, &q, &options);
    let mut forward = || no_grad(attention).map(|_| ());
    row("attention forward f32", "tflops", work, &mut forward);
    row("attention forward bf16", "tflops", work, &mut || bf16(&mut forward));
    let ones = Tensor::ones([b, h, t, d], DType::F32).and_then(|x| x.to_device(GPU)).unwrap();
    let mut both = || attention()?.backward_with(ones.clone());
    row("attention both bf16", "tflops", 3.5 * work, &mut || bf16(&mut both));
    // What waits for memory: terabytes a second.
    let (rows, c) = (s(65_536), s(768));
    let (x, gain) = (random(&[rows, c], 6), random(&[c], 7));
    let bytes = |tensors: usize| (4 * tensors * rows * c) as f64;
    let mut norm = || ops::layer_norm(&x, Some(&gain), Some(&gain), 1e-5).map(|_| ());
    row("layer_norm forward", "tb_per_s", bytes(2), &mut norm);
    row("gelu forward", "tb_per_s", bytes(2), &mut || x.gelu().map(|_| ()));
    row("add", "tb_per_s", bytes(3), &mut || x.add(&x).map(|_| ()));
    let (rows, v) = (s(8192), s(50_304));
    let logits = random(&[rows, v], 8);
    let ids: Vec<u32> = (0..rows).map(|i| (i * 7919 % v) as u32).collect();
    let ids = Tensor::from_slice(&ids, rows).and_then(|x| x.to_device(GPU)).unwrap();
    let mut loss = || ops::cross_entropy(&logits, &ids, &CrossEntropy::default()).map(|_| ());
    row("cross_entropy forward", "tb_per_s", (4 * rows * v) as f64, &mut loss);
}
