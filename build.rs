//! Tells the crate which profile it is built in. Compiles `kernels/*.cu` with nvcc and embeds the result, without the
//! feature `cuda` nothing.
//!
//! nvcc is looked for in `NVCC`, `CUDA_HOME`, `CUDA_PATH`, the folder `.cuda` that `kernels/get-nvcc.sh` fills, `PATH` and
//! `/usr/local/cuda`. Where there is none the crate is built all the same, and says at run time that it has
//! no kernels; `HANDLOOM_REQUIRE_NVCC=1` makes that an error.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!(
        "cargo:rustc-env=HANDLOOM_PROFILE={}",
        env::var("PROFILE").expect("cargo sets PROFILE")
    );
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo:rerun-if-changed=kernels");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "HANDLOOM_REQUIRE_NVCC"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let images = match find_nvcc() {
        Some(nvcc) => compile(&nvcc, &out),
        None => {
            let message = "nvcc was not found: building without GPU kernels; run kernels/get-nvcc.sh \
                           (or set NVCC) and build again";
            assert!(env::var_os("HANDLOOM_REQUIRE_NVCC").is_none(), "{message}");
            println!("cargo:warning={message}");
            Vec::new()
        }
    };
    let mut text = String::from("static IMAGES: &[(&str, &[u8])] = &[\n");
    for image in images {
        let name = image.file_stem().expect("a file").to_string_lossy().into_owned();
        text += &format!("    ({name:?}, include_bytes!({image:?})),\n");
    }
    fs::write(out.join("images.rs"), text + "];\n").expect("OUT_DIR can be written");
}

fn find_nvcc() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = env::var_os("NVCC").map(PathBuf::from).into_iter().collect();
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        places.extend(env::var_os(name).map(|home| PathBuf::from(home).join("bin/nvcc")));
    }
    if let Ok(pythons) = fs::read_dir(".cuda/lib") {
        let nvcc = "site-packages/nvidia/cu13/bin/nvcc";
        places.extend(pythons.flatten().map(|python| python.path().join(nvcc)));
    }
    if let Some(path) = env::var_os("PATH") {
        places.extend(env::split_paths(&path).map(|folder| folder.join("nvcc")));
    }
    places.push("/usr/local/cuda/bin/nvcc".into());
    places.into_iter().find(|place| place.is_file())
}

/// Every `kernels/*.cu` for Ampere and newer (machine code and PTX) and for Hopper, two files at a time.
fn compile(nvcc: &Path, out: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir("kernels").expect("the folder kernels").flatten();
    let mut sources: Vec<PathBuf> = files.map(|file| file.path()).collect();
    sources.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    sources.sort();
    let image =
        |source: &PathBuf| out.join(source.file_stem().expect("a file")).with_extension("fatbin");
    for pair in sources.chunks(2) {
        let running: Vec<_> = pair
            .iter()
            .map(|source| {
                let child = Command::new(nvcc)
                    .args(["-fatbin", "-std=c++17", "-O3", "-lineinfo", "-Ikernels"])
                    .arg("-gencode=arch=compute_80,code=[sm_80,compute_80]")
                    .arg("-gencode=arch=compute_90a,code=sm_90a")
                    .arg("-Xptxas=-warn-spills")
                    .arg("-o")
                    .arg(image(source))
                    .arg(source)
                    .stderr(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .spawn();
                (source, child.unwrap_or_else(|e| panic!("{} does not run: {e}", nvcc.display())))
            })
            .collect();
        for (source, child) in running {
            let output = child.wait_with_output().expect("nvcc ends");
            let text = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "nvcc failed on {}:\n{text}", source.display());
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                println!("cargo:warning={}: {line}", source.display());
            }
        }
    }
    sources.iter().map(image).collect()
}
