//! What this machine is: processor, memory, threads, and the multiply-adds it does in a second.

use std::time::{Duration, Instant};

use crate::cpu::gemm::Precision;
use crate::cpu::roof;
use crate::cpu::simd::{Level, available_levels, level};

/// Whether this is an optimised build.
pub const RELEASE: bool = matches!(env!("HANDLOOM_PROFILE").as_bytes(), b"release");

/// The processor's name as the system gives it, else the architecture.
pub fn cpu() -> String {
    let name = if cfg!(target_os = "linux") {
        std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
    } else if cfg!(target_os = "macos") {
        ask("sysctl", &["-n", "machdep.cpu.brand_string"])
    } else {
        std::env::var("PROCESSOR_IDENTIFIER").ok()
    };
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The memory of the machine and what is free to take of it, in bytes; None where the system is not
/// asked (Windows).
pub fn memory() -> Option<(u64, u64)> {
    if cfg!(target_os = "linux") {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        Some((field("MemTotal:")?, field("MemAvailable:")?))
    } else if cfg!(target_os = "macos") {
        let total = ask("sysctl", &["-n", "hw.memsize"])?.parse().ok()?;
        Some((total, total))
    } else {
        None
    }
}

fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

/// The GPUs that can be computed on, a line each, or the reason why there are none.
pub fn gpus() -> (Vec<String>, Option<String>) {
    #[cfg(feature = "cuda")]
    return match crate::cuda::devices() {
        Ok(all) => (all.iter().map(ToString::to_string).collect(), None),
        Err(reason) => (Vec::new(), Some(reason.to_string())),
    };
    #[cfg(not(feature = "cuda"))]
    (Vec::new(), crate::Device::Cuda(0).check().err().map(|reason| reason.to_string()))
}

/// The instruction sets the kernels can use here, and the one in force.
pub fn isa_levels() -> (Vec<&'static str>, &'static str) {
    (available_levels().into_iter().map(Level::name).collect(), level().name())
}

/// Measured peak of multiply-adds over all threads of the pool, in FLOP/s (an addition and a
/// multiplication count as two), in products as `precision` computes them. Takes about `time`; None when nothing could be measured.
///
/// The "share of peak" of a training step is its FLOPs over this figure, so it says how much of
/// *this* machine the step uses, not how it compares to a data sheet.
pub fn peak_flops(time: Duration, precision: Precision) -> Option<f64> {
    let rates = rayon::broadcast(|_| {
        let start = Instant::now();
        let mut best: f64 = 0.0;
        // The best of short slices: a slice that the scheduler broke says nothing about the core.
        while start.elapsed() < time {
            let slice = Instant::now();
            let flops = roof::multiply_adds_of(precision, 20_000);
            best = best.max(flops / slice.elapsed().as_secs_f64());
        }
        best
    });
    let sum: f64 = rates.iter().sum();
    (sum.is_finite() && sum > 0.0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_can_be_asked() {
        assert!(!cpu().is_empty());
        let (levels, used) = isa_levels();
        assert!(levels.contains(&used));
        assert!(peak_flops(Duration::from_millis(5), Precision::Highest).unwrap() > 1e8);
    }
}
