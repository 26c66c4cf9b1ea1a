//! What nvcc makes of the kernels. Without nvcc the tests say "skipped".

use std::path::{Path, PathBuf};
use std::process::Command;

/// nvcc where `build.rs` looks for it.
fn nvcc() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::env::var_os("NVCC").map(PathBuf::from).into_iter().collect();
    if let Ok(pythons) = std::fs::read_dir(root().join(".cuda/lib")) {
        let nvcc = "site-packages/nvidia/cu13/bin/nvcc";
        places.extend(pythons.flatten().map(|python| python.path().join(nvcc)));
    }
    places.push("/usr/local/cuda/bin/nvcc".into());
    let found = places.into_iter().find(|place| place.is_file());
    if found.is_none() {
        eprintln!("skipped: nvcc was not found; kernels/get-nvcc.sh fetches it");
    }
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join("kernels")).unwrap();
    let mut all: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    all.sort();
    assert!(all.len() >= 20, "kernels/ has moved");
    all
}

/// Instructions that a file's machine code must have, and how many at least.
const EXPECTED: [(&str, &str, usize); 4] = [
    ("attention_mma", "HMMA.16816.F32.BF16", 32),
    ("gemm_bf16", "HMMA.16816.F32.BF16", 4 * 32),
    ("gemm_bf16", "LDSM.16.M", 4 * 6),
    ("gemm_bf16", "LDGSTS.E.BYPASS.128", 4 * 8),
];

/// Compiles one file for one target and looks at the result.
fn check(nvcc: &Path, exceptions: &str, source: &Path, (arch, code): (&str, &str)) {
    let name = source.file_stem().unwrap().to_str().unwrap();
    let cubin = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{code}.cubin"));
    let output = Command::new(nvcc)
        .args(["-cubin", "-std=c++17", "-O3", "-Xptxas=-v", "-o"])
        .arg(&cubin)
        .arg(format!("-gencode=arch={arch},code={code}"))
        .arg(source)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} for {code}:\n{text}");
    let mut kernel = "";
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("Function properties for ") {
            kernel = rest.trim();
        }
        let clean = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
        if line.contains("bytes spill stores") && line.trim() != clean {
            let listed = exceptions.lines().any(|l| l.starts_with(&format!("{kernel} {code} ")));
            assert!(listed, "{kernel} for {code}: {}; not in kernels/exceptions.txt", line.trim());
        }
    }
    let expected = EXPECTED.iter().filter(|(file, _, _)| *file == name);
    for (_, instruction, least) in expected {
        let dump = nvcc.with_file_name("cuobjdump");
        let dump = Command::new(dump).arg("--dump-sass").arg(&cubin).output().unwrap();
        let found = String::from_utf8_lossy(&dump.stdout).matches(instruction).count();
        assert!(found >= *least, "{name} for {code} has {found} of {instruction}, not {least}");
    }
}

#[test]
fn no_kernel_spills_and_products_use_tensor_cores() {
    let Some(nvcc) = nvcc() else { return };
    let exceptions = std::fs::read_to_string(root().join("kernels/exceptions.txt")).unwrap();
    // The PTX that newer devices compile for themselves is made on the way to sm_80.
    let targets = [("compute_80", "sm_80"), ("compute_90a", "sm_90a")];
    std::thread::scope(|scope| {
        for target in targets {
            let (nvcc, exceptions) = (&nvcc, &exceptions);
            scope.spawn(move || {
                sources().iter().for_each(|source| check(nvcc, exceptions, source, target));
            });
        }
    });
}

#[test]
fn the_emulator_has_every_kernel() {
    let list = std::fs::read_to_string(root().join("kernels/emu/libcuda.cpp")).unwrap();
    for source in sources() {
        let name = source.file_name().unwrap().to_str().unwrap();
        assert!(list.contains(&format!("#include \"../{name}\"")), "{name} is not emulated");
        let text = std::fs::read_to_string(&source).unwrap();
        let inline = text.contains("asm volatile");
        assert!(
            !inline,
            "{name} has inline assembly; it belongs into a header with an emulated twin"
        );
        assert!(!text.contains("atomicAdd"), "{name} adds atomically");
    }
}
