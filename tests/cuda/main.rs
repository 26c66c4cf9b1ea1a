//! The GPU path, proved without a GPU.
//!
//! The tests marked `ignore` compute on device `cuda:0`, whatever that is. With a GPU they are run by
//! `kernels/gpu.sh`. Without one, the tests of this file build the emulated driver from `kernels/` with the host's C++
//! compiler and run the same tests again in a process that finds it, under three orders of threads. Where there
//! is no C++ compiler they say "skipped".
//!
//! | file | question |
//! |---|---|
//! | `ops` | does every operation of the registry give what the CPU gives, values and gradients? |
//! | `training` | do 20 steps of a GPT, an LSTM and a classifier lose what they lose on the CPU? |
//! | `memory` | pool, copies, errors, ids out of range |
//! | `compiled` | does nvcc compile every kernel, without spills? |

#[path = "../common/training.rs"]
mod common;
#[path = "../registry/samples.rs"]
#[allow(dead_code)]
mod samples;

mod compiled;
mod memory;
mod ops;
mod training;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The emulated driver, built once; `None` without a C++ compiler.
fn emulator() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> Option<PathBuf> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("skipped: there is no C++ compiler ({compiler}) to build the emulated GPU with");
        return None;
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("libcuda.so");
    let status = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-DHL_EMU", "-Wl,-soname,libcuda.so", "-o"])
        .arg(&library)
        .arg(root.join("kernels/emu/libcuda.cpp"))
        .args(std::env::var("EMU_FLAGS").unwrap_or_default().split_whitespace())
        .status()
        .expect("the compiler runs");
    assert!(status.success(), "the kernels do not compile under the emulator");
    Some(library)
}

/// Runs the ignored tests in a process of their own that finds the emulated driver.
fn run_emulated(order: &str, filter: &[&str]) {
    run_emulated_with(order, filter, &[]);
}

fn run_emulated_with(order: &str, filter: &[&str], set: &[(&str, &str)]) {
    let Some(library) = emulator() else { return };
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--test-threads", "1"])
        .args(filter)
        .env("HANDLOOM_LIBCUDA", library)
        .env("EMU_ORDER", order)
        .envs(set.iter().copied())
        .status()
        .unwrap();
    assert!(status.success(), "failed with EMU_ORDER={order}; see above");
}

#[test]
fn everything_holds_with_threads_run_upwards() {
    run_emulated("0", &[]);
}

#[test]
fn operations_hold_with_threads_run_downwards() {
    run_emulated("1", &["ops::", "--skip", "large"]);
}

#[test]
fn operations_hold_with_threads_shuffled() {
    run_emulated("2", &["ops::", "--skip", "large"]);
}

#[test]
fn products_on_tensor_cores_are_near() {
    let medium = [("HANDLOOM_CUDA_MATMUL", "medium")];
    run_emulated_with("2", &["ops::large_products", "training::a_gpt"], &medium);
}

/// The program's own words when there is no GPU.
fn complaint(set: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "memory::says_what_is_missing", "--nocapture"]);
    command.envs(set.iter().copied());
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

#[test]
fn each_way_to_be_without_a_gpu_has_its_sentence() {
    let Some(library) = emulator() else { return };
    let library = library.to_str().unwrap();
    let nowhere = complaint(&[("HANDLOOM_LIBCUDA", "/nowhere/libcuda.so")]);
    assert!(nowhere.contains("HANDLOOM_LIBCUDA=/nowhere/libcuda.so cannot be opened"), "{nowhere}");
    let none = complaint(&[("HANDLOOM_LIBCUDA", library), ("EMU_DEVICES", "0")]);
    assert!(none.contains("finds no GPU"), "{none}");
    let old = complaint(&[("HANDLOOM_LIBCUDA", library), ("EMU_CAPABILITY", "75")]);
    assert!(old.contains("too old: it has compute capability 7.5"), "{old}");
}

/// Whether products are asked to round their factors to bf16.
fn tensor_cores() -> bool {
    std::env::var("HANDLOOM_CUDA_MATMUL").is_ok_and(|value| value == "medium")
}
