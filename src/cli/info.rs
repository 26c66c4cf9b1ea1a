//! `handloom info`: what this program finds on this machine.

use std::time::Duration;

use serde_json::json;

use super::terminal::{To, dim, out};
use super::{format, machine};
use crate::Result;
use crate::cpu::gemm::Precision;

/// What this machine offers: processor, instruction sets, threads, memory, GPU, build
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  handloom info\n  handloom info --json\n  HANDLOOM_ISA=avx2 handloom info"
)]
pub struct Info {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Info {
    /// Prints it.
    pub fn run(self) -> Result<()> {
        let (levels, used) = machine::isa_levels();
        let wanted = std::env::var("HANDLOOM_ISA").ok().filter(|w| !w.is_empty() && w != used);
        let threads = rayon::current_num_threads();
        let memory = machine::memory();
        let peak = machine::peak_flops(Duration::from_millis(50), Precision::Highest);
        let (gpus, no_gpu) = machine::gpus();
        let features = if cfg!(feature = "cuda") { vec!["cli", "cuda"] } else { vec!["cli"] };
        let build = if machine::RELEASE { "release" } else { "debug (slow; add --release)" };
        let target = format!("{} {}", std::env::consts::ARCH, std::env::consts::OS);
        if self.json {
            out(json!({
                "version": env!("CARGO_PKG_VERSION"),
                "cpu": machine::cpu(),
                "isa_levels": levels,
                "isa": used,
                "threads": threads,
                "memory_bytes": memory.map(|m| m.0),
                "memory_available_bytes": memory.map(|m| m.1),
                "peak_f32_flops": peak,
                "gpu": if gpus.is_empty() { serde_json::Value::Null } else { json!(gpus) },
                "gpu_reason": no_gpu,
                "features": features,
                "profile": if machine::RELEASE { "release" } else { "debug" },
                "target": target,
            }));
            return Ok(());
        }
        let line = |name: &str, value: String| {
            out(format_args!("{} {value}", dim(To::Stdout, format_args!("{name:<14}"))));
        };
        line("handloom", format!("{} ({target}, {build})", env!("CARGO_PKG_VERSION")));
        line("processor", machine::cpu());
        line(
            "instructions",
            format!("{used} in force; this machine can run {}", levels.join(", ")),
        );
        if let Some(wanted) = wanted {
            line("", format!("HANDLOOM_ISA={wanted} is not one of them and is ignored"));
        }
        line("threads", threads.to_string());
        if let Some(peak) = peak {
            line("f32 peak", format!("{}FLOP/s measured over all threads", format::short(peak)));
        }
        if let Some((total, free)) = memory {
            line("memory", format!("{}, {} free", format::bytes(total), format::bytes(free)));
        }
        for gpu in gpus {
            line("GPU", gpu);
        }
        if let Some(reason) = no_gpu {
            line("GPU", format!("none: {reason}"));
        }
        line("features", features.join(", "));
        Ok(())
    }
}
