//! Weight files: `model.safetensors`, whole or in shards, read with suspicion and written whole or
//! not at all.
//!
//! A file is eight bytes of header length, a JSON header of names, dtypes, shapes and offsets, then
//! the numbers. The `safetensors` crate checks lengths and offsets; what it lets pass is refused
//! here: a name that occurs twice, a shape whose sizes multiply to nonsense beside a zero, a shard
//! outside of its folder.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Dtype, SafeTensors, View};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, Result};
use crate::nn::StateDict;
use crate::tensor::{DType, Device, Tensor, for_any};

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian, and are copied as they are");

/// The name of the weight file in a model folder.
pub const WEIGHTS: &str = "model.safetensors";
/// The name of the list of shards.
pub const INDEX: &str = "model.safetensors.index.json";
/// The longest header that is read.
const LONGEST_HEADER: usize = 100_000_000;

// ---- writing ----------------------------------------------------------------------------------

/// A contiguous tensor as the crate wants to see it.
struct Contiguous(Tensor);

impl View for Contiguous {
    fn dtype(&self) -> Dtype {
        match self.0.dtype() {
            DType::F32 => Dtype::F32,
            DType::F64 => Dtype::F64,
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            DType::U32 => Dtype::U32,
        }
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        for_any!(self.0.dtype(), E => bytemuck::cast_slice(self.0.slice_ref::<&[E]>()).into())
    }

    fn data_len(&self) -> usize {
        self.0.numel() * self.0.dtype().size()
    }
}

/// The bytes of a weight file with these tensors, the same each time.
///
/// # Errors
/// When a name occurs twice or memory cannot be had.
pub fn to_bytes(tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut seen = HashSet::new();
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if !seen.insert(name.as_str()) {
            return Err(Error::Failed(format!("two tensors are called `{name}`")));
        }
        views.push((name, Contiguous(tensor.moved(Device::Cpu)?.packed()?)));
    }
    // Readers of the format look for this one entry; a second would come in any order.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    ::safetensors::serialize(views, Some(metadata))
        .map_err(|e| Error::Failed(format!("the weights could not be written as safetensors: {e}")))
}

/// Replaces the file at `path` by one with these bytes: through a temporary file beside it that is
/// flushed to the disk and renamed, so that a crash leaves the old file or the new one.
///
/// # Errors
/// When the system refuses an operation.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::Usage(format!("{}: not a file name", path.display())));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(hidden);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::io(path, "write", e)
    })?;
    // The rename itself is durable once the folder is; where folders cannot be synced, it is
    // enough.
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        let _ = folder.sync_all();
    }
    Ok(())
}

// ---- reading ----------------------------------------------------------------------------------

/// Tensors by name. Entries of types that no weight has (integers and flags in old files) are left
/// out.
///
/// # Errors
/// When the bytes are not a sound safetensors file; the message begins with `name`.
pub fn from_bytes(bytes: &[u8], name: &str) -> Result<StateDict> {
    let bad = |text: String| Error::Data(format!("{name}: {text}"));
    check_header(bytes).map_err(&bad)?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| {
        bad(format!("not a sound safetensors file: {e}; it may be cut off, copy it again"))
    })?;
    let mut tensors = StateDict::new();
    let mut names: Vec<&str> = file.names().into_iter().collect();
    names.sort_unstable();
    for key in names {
        let view = file.tensor(key).map_err(|e| bad(format!("`{key}`: {e}")))?;
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::BF16 => DType::BF16,
            Dtype::F16 => DType::F16,
            Dtype::U32 => DType::U32,
            Dtype::BOOL
            | Dtype::U8
            | Dtype::I8
            | Dtype::I16
            | Dtype::U16
            | Dtype::I32
            | Dtype::I64
            | Dtype::U64 => continue,
            other => {
                return Err(bad(format!("`{key}` has dtype {other:?}, which is not supported")));
            }
        };
        let mut tensor = Tensor::empty(view.shape(), dtype)?;
        for_any!(dtype, E => {
            // Bytes into elements: the file's data need not be aligned.
            bytemuck::cast_slice_mut::<E, u8>(tensor.slice_mut::<&mut [E]>()).copy_from_slice(view.data())
        });
        tensors.push((key.to_owned(), tensor));
    }
    Ok(tensors)
}

/// What the crate does not check: doubled names and sizes beyond reason.
fn check_header(bytes: &[u8]) -> std::result::Result<(), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(format!("{} bytes are too few for a safetensors file", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    let header =
        usize::try_from(length).ok().filter(|&n| n <= LONGEST_HEADER).and_then(|n| rest.get(..n));
    let Some(header) = header else {
        return Err(format!(
            "not a sound safetensors file: its header should have {length} bytes, the file has {}",
            bytes.len()
        ));
    };
    let mut json = serde_json::Deserializer::from_slice(header);
    json.deserialize_map(Header)
        .map_err(|e| format!("the header of the weight file is damaged: {e}"))
}

/// Reads the header's keys one by one.
struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                let shape = map.next_value_seed(Shape)?;
                // A zero must not hide absurd sizes beside it.
                let count =
                    shape.iter().filter(|&&n| n != 0).try_fold(8u64, |p, &n| p.checked_mul(n));
                if count.is_none_or(|bytes| bytes > i64::MAX as u64) {
                    return Err(serde::de::Error::custom(format!(
                        "`{key}` has the absurd shape {shape:?}"
                    )));
                }
            }
            if !seen.insert(key.clone()) {
                return Err(serde::de::Error::custom(format!("the name `{key}` occurs twice")));
            }
        }
        Ok(())
    }
}

/// Reads the `shape` of one entry and passes over the rest.
struct Shape;

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Vec<u64>, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vec<u64>, A::Error> {
        let mut shape = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "shape" => shape = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(shape)
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(path, "read", e))
}

/// All tensors of the model folder `dir`: from `model.safetensors`, or from the shards that
/// `model.safetensors.index.json` lists.
///
/// # Errors
/// When there is no weight file, one is damaged, a shard lies outside of the folder, or the shards
/// do not hold what the index says.
pub fn read_folder(dir: &Path) -> Result<StateDict> {
    let (whole, index) = (dir.join(WEIGHTS), dir.join(INDEX));
    if whole.is_file() {
        return from_bytes(&read(&whole)?, &whole.display().to_string());
    }
    if index.is_file() {
        return read_shards(dir, &index);
    }
    let hint = if dir.join("pytorch_model.bin").is_file() {
        "; it has a pytorch_model.bin, which can be rewritten with save_pretrained(…) of transformers"
    } else if !dir.is_dir() {
        "; there is no such folder"
    } else {
        ""
    };
    Err(Error::Data(format!("{}: no {WEIGHTS} and no {INDEX}{hint}", dir.display())))
}

fn read_shards(dir: &Path, index: &Path) -> Result<StateDict> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bad = |text: String| Error::Data(format!("{}: {text}", index.display()));
    let value = crate::json::parse(&read(index)?).map_err(&bad)?;
    let parsed: Index =
        serde_json::from_value(value).map_err(|e| bad(format!("not a list of shards: {e}")))?;
    let mut shards: BTreeMap<PathBuf, Vec<&String>> = BTreeMap::new();
    for (name, file) in &parsed.weight_map {
        // A plain name of this folder and nothing else: no separators, no `..`, no drive.
        let plain =
            !file.is_empty() && !file.contains(['/', '\\', ':']) && file != "." && file != "..";
        if !plain {
            return Err(bad(format!("the shard `{file}` is not a file name of this folder")));
        }
        shards.entry(dir.join(file)).or_default().push(name);
    }
    let mut all = StateDict::new();
    for (path, names) in shards {
        let tensors = from_bytes(&read(&path)?, &path.display().to_string())?;
        let there: HashSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
        if let Some(name) = names.iter().find(|name| !there.contains(name.as_str()))
            && !is_buffer(name)
        {
            return Err(bad(format!("`{name}` should be in {}, but is not", path.display())));
        }
        let listed: HashSet<&str> = names.iter().map(|name| name.as_str()).collect();
        all.extend(tensors.into_iter().filter(|(name, _)| listed.contains(name.as_str())));
    }
    Ok(all)
}

/// Whether `name` is not a parameter but something old versions saved beside them.
pub(super) fn is_buffer(name: &str) -> bool {
    let ends = [".attn.bias", ".attn.masked_bias", "embeddings.position_ids"];
    ends.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn tensors_of_all_dtypes_go_round() {
        let x = Tensor::from_slice(&[1.5f32, -2.0, 0.25, 8.0, 0.0, 3.0], [2, 3]).unwrap();
        let mut list = StateDict::new();
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
            list.push((format!("x.{dtype}"), x.to_dtype(dtype).unwrap()));
        }
        list.push(("turned".into(), x.t().unwrap()));
        list.push(("none".into(), Tensor::zeros([0, 3], DType::F32).unwrap()));
        list.push(("scalar".into(), Tensor::scalar(7.0, DType::F32).unwrap()));
        let bytes = to_bytes(&list).unwrap();
        assert_eq!(bytes, to_bytes(&list).unwrap(), "the same bytes each time");
        let back: HashMap<String, Tensor> =
            from_bytes(&bytes, "file").unwrap().into_iter().collect();
        for (name, tensor) in &list {
            assert_eq!(back[name].shape(), tensor.shape(), "{name}");
            assert_eq!(back[name].dtype(), tensor.dtype());
            assert_eq!(back[name].to_f64_vec().unwrap(), tensor.to_f64_vec().unwrap());
        }
        list.push(list[0].clone());
        assert!(to_bytes(&list).is_err());
    }

    #[test]
    fn damaged_files_are_refused_with_a_sentence() {
        let entry = |name: &str, shape: &str, to: usize| {
            format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{to}]}}"#)
        };
        let good = file(&format!("{{{}}}", entry("a", "[1]", 4)), &[0; 4]);
        assert!(from_bytes(&good, "f").is_ok());
        for end in 0..good.len() {
            assert!(from_bytes(&good[..end], "f").is_err(), "cut at {end}");
        }
        let twice = format!("{{{},{}}}", entry("a", "[1]", 4), entry("a", "[1]", 4));
        let absurd = format!("{{{}}}", entry("a", "[18446744073709551615,0]", 0));
        let large = format!("{{{}}}", entry("a", "[4294967296,4294967296]", 4));
        let short = format!("{{{}}}", entry("a", "[2]", 4));
        let list = "[1,2]".to_owned();
        let negative = format!("{{{}}}", entry("a", "[-1]", 4));
        for (header, data, expected) in [
            (&twice, 4, "occurs twice"),
            (&absurd, 0, "absurd shape"),
            (&large, 4, "absurd shape"),
            (&short, 4, "not a sound"),
            (&list, 0, "damaged"),
            (&negative, 4, "damaged"),
        ] {
            let error = from_bytes(&file(header, &vec![0; data]), "weights").unwrap_err();
            let message = error.to_string();
            assert!(
                message.contains(expected) && message.contains("weights"),
                "{header}: {message}"
            );
            assert_eq!(error.exit_code(), 3);
        }
        let mut far = good.clone();
        far[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(from_bytes(&far, "f").unwrap_err().to_string().contains("header should have"));
    }

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_else() {
        let dir = std::env::temp_dir().join(format!("handloom-atomic-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("x");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        assert!(write_atomic(&dir.join("no/such/folder"), b"x").is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
