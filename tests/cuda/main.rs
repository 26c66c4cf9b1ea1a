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
//! | `probe` | do the primitives that kernels are made of do what their definitions say? |
//! | `graphs` | does a step that is recorded once and launched whole give the bits of a plain one? |
//! | `memory` | pool, copies, errors, ids out of range |
//! | `bench` | how long do kernels take? (for `kernels/gpu.sh`) |
//! | `compiled` | does nvcc compile every kernel, without spills? |

#[path = "../common/training.rs"]
mod common;
#[path = "../registry/samples.rs"]
#[allow(dead_code)]
mod samples;

mod bench;
mod compiled;
mod graphs;
mod memory;
mod ops;
mod probe;
mod training;

use handloom::Device;
use handloom::autograd::matmul_precision;
use handloom::cpu::gemm::Precision;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The emulated driver, built once; `None` without a C++ compiler.
fn emulator() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".into())
}

fn build() -> Option<PathBuf> {
    build_with("libcuda.so", &["-O2"])
}

fn build_with(name: &str, flags: &[&str]) -> Option<PathBuf> {
    let compiler = compiler();
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("skipped: there is no C++ compiler ({compiler}) to build the emulated GPU with");
        return None;
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let status = Command::new(&compiler)
        .args(["-std=c++17", "-fPIC", "-shared", "-DHL_EMU", "-Wl,-soname,libcuda.so", "-o"])
        .arg(&library)
        .arg(root.join("kernels/emu/libcuda.cpp"))
        .args(flags)
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
    run_on(&library, order, filter, set);
}

fn run_on(library: &Path, order: &str, filter: &[&str], set: &[(&str, &str)]) {
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
    let medium = [("HANDLOOM_TEST_PRECISION", "bf16")];
    run_emulated_with("2", &["ops::large_products", "training::a_gpt"], &medium);
}

/// The kernels built with the address and undefined-behaviour sanitizers, every buffer a piece of memory of its own.
#[test]
fn kernels_stay_within_their_buffers() {
    let flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"];
    let runtime = Command::new(compiler()).arg("-print-file-name=libasan.so").output();
    let runtime = runtime.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let Some(runtime) = runtime.ok().filter(|path| Path::new(path).is_absolute()) else {
        eprintln!("skipped: {} has no address sanitizer", compiler());
        return;
    };
    let Some(library) = build_with("libcuda-sanitized.so", &flags) else { return };
    let mut set = vec![
        ("LD_PRELOAD", runtime.as_str()),
        ("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0"),
        ("HANDLOOM_CUDA_EXACT", "1"),
        ("HANDLOOM_TEST_QUICK", "1"),
    ];
    run_on(&library, "2", &["ops::operations", "ops::large_operations"], &set);
    set.push(("HANDLOOM_TEST_PRECISION", "bf16"));
    run_on(&library, "1", &["ops::operations", "ops::large_products"], &set);
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
    let nothing = complaint(&[("HANDLOOM_LIBCUDA", "")]);
    if !Path::new("/dev/nvidiactl").exists() {
        assert!(nothing.contains("there is no NVIDIA driver on this machine"), "{nothing}");
    }
    let strange = complaint(&[("HANDLOOM_LIBCUDA", library), ("EMU_NAME", "some GPU")]);
    // The emulated device brings its kernels; another one needs those that nvcc compiled into the build.
    let none = "this build has no GPU kernels, for nvcc was not found when it was made";
    assert!(strange.contains(none) || strange.contains("nothing is missing"), "{strange}");
    let nowhere = complaint(&[("HANDLOOM_LIBCUDA", "/nowhere/libcuda.so")]);
    assert!(nowhere.contains("HANDLOOM_LIBCUDA=/nowhere/libcuda.so cannot be opened"), "{nowhere}");
    let none = complaint(&[("HANDLOOM_LIBCUDA", library), ("EMU_DEVICES", "0")]);
    assert!(none.contains("finds no GPU"), "{none}");
    let old = complaint(&[("HANDLOOM_LIBCUDA", library), ("EMU_CAPABILITY", "75")]);
    assert!(old.contains("too old: it has compute capability 7.5"), "{old}");
}

/// Whether products on the GPU are asked to round their factors to bf16.
fn tensor_cores() -> bool {
    std::env::var("HANDLOOM_TEST_PRECISION").is_ok_and(|value| value == "bf16")
}

/// Runs `f` with the precision that products on `device` are asked for.
fn at_precision<R>(device: Device, f: impl FnOnce() -> R) -> R {
    let bf16 = tensor_cores() && device != Device::Cpu;
    let precision = if bf16 { Precision::Medium } else { Precision::Highest };
    matmul_precision(precision, f)
}
