//! The readers of foreign bytes, each as a function that may do anything with any bytes but panic, hang or
//! take memory without bound. `cargo fuzz` calls them by way of `fuzz_targets/`, and `tests/fuzz_corpus.rs` on
//! the stable compiler with the seeds below and the committed corpus.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handloom::models::{self, on_disk};
use handloom::text::conll::TaggedSet;
use handloom::text::hash::{fold, hash_bytes};
use handloom::text::labelled::{LabelledSet, ReadOptions};
use handloom::text::srl::SrlSet;
use handloom::text::word_vocabulary::WordVocabulary;
use handloom::text::{Encoding, TokenFile, Tokenizer, decode_bytes};
use handloom::train::checkpoint;
use handloom::train::config;
use handloom::train::fsx::Fs;
use handloom::train::pretrain::PretrainConfig;
use serde_json::{Map, Value, json};

/// A reader by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 10] = [
    ("safetensors", safetensors),
    ("config", model_config),
    ("tokenizer", tokenizer),
    ("token_file", token_file),
    ("manifest", manifest),
    ("labelled", labelled),
    ("conll", conll),
    ("srl", srl),
    ("words", words),
    ("settings", settings),
];

pub fn safetensors(bytes: &[u8]) {
    let _ = models::safetensors::from_bytes(bytes, "fuzz");
}

pub fn model_config(bytes: &[u8]) {
    if let Ok((config, _)) = on_disk::parse_config(bytes, "fuzz") {
        let count = config.num_parameters();
        let _ = models::estimate_memory(&config, usize::MAX, usize::MAX).total();
        assert!(count.is_some(), "accepted, but its parameters cannot be counted");
    }
}

/// A tokenizer that is accepted must also work.
pub fn tokenizer(bytes: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_bytes(bytes) else { return };
    for text in ["", "the loom  and\nthe LOOM!", "织布机 é\u{301} \u{0}\u{FFFD}"] {
        if let Ok(ids) = tokenizer.encode(text) {
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            let _ = tokenizer.decode(&ids);
        }
    }
    let _ = tokenizer.decode(&[0, 1, 2, u32::MAX]);
    let _ = tokenizer.encode_words(&["a", "", "织布"]);
    let _ = tokenizer.encode_pair("a b", Some("c"), 4);
}

/// The two checksums are set right, so that what lies behind them is reached.
pub fn token_file(bytes: &[u8]) {
    let _ = TokenFile::check(bytes, "fuzz", None);
    let mut bytes = bytes.to_vec();
    if let Some((head, ids)) = bytes.split_at_mut_checked(64) {
        head[48..56].copy_from_slice(&fold(0, hash_bytes(ids)).to_le_bytes());
        let own = hash_bytes(&head[..56]);
        head[56..].copy_from_slice(&own.to_le_bytes());
        let _ = TokenFile::check(&bytes, "fuzz", None);
    }
}

/// A folder of two files in memory, read only.
struct TwoFiles(Vec<u8>);

impl Fs for TwoFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("manifest.json") => Ok(self.0.clone()),
            Some("a.bin") => Ok(b"weights".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        unreachable!("a reader makes no folder")
    }
    fn write(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }
    fn append(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }
    fn truncate(&self, _: &Path, _: u64) -> io::Result<()> {
        unreachable!("a reader cuts nothing")
    }
    fn sync(&self, _: &Path) -> io::Result<()> {
        unreachable!("a reader syncs nothing")
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        unreachable!("a reader renames nothing")
    }
    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        unreachable!("a reader removes nothing")
    }
    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        self.read(path).map(|bytes| bytes.len() as u64)
    }
    fn exists(&self, _: &Path) -> bool {
        true
    }
}

/// As it is, and where it is JSON with a checksum that is right.
pub fn manifest(bytes: &[u8]) {
    let open = |bytes: Vec<u8>| {
        if let Ok(checkpoint) =
            checkpoint::open_folder(Path::new("checkpoint"), Arc::new(TwoFiles(bytes)))
        {
            assert!(["a.bin", "b.bin"].iter().filter(|name| checkpoint.has(name)).count() <= 1);
        }
    };
    open(bytes.to_vec());
    if let Ok(Value::Object(manifest)) = serde_json::from_slice(bytes) {
        open(sealed(manifest).into_bytes());
    }
}

fn sealed(mut manifest: Map<String, Value>) -> String {
    manifest.shift_remove("checksum");
    let checksum = format!("{:016x}", hash_bytes(json!(manifest).to_string().as_bytes()));
    manifest.insert("checksum".into(), checksum.into());
    json!(manifest).to_string()
}

fn text(bytes: &[u8]) -> Option<String> {
    decode_bytes(bytes.to_vec(), Encoding::Utf8, "fuzz").ok()
}

/// The first byte chooses the layout and the columns.
pub fn labelled(bytes: &[u8]) {
    let Some((&choice, rest)) = bytes.split_first() else { return };
    let Some(text) = text(rest) else { return };
    let name = ["fuzz.csv", "fuzz.tsv", "fuzz.jsonl", "fuzz.txt"][usize::from(choice & 3)];
    let column = |bit: u8, name: &str| (choice & bit != 0).then(|| name.to_owned());
    let options = ReadOptions {
        label_column: column(4, "1"),
        text_column: column(8, "text"),
        text_pair_column: column(16, "3"),
        header: (choice & 32 != 0).then_some(choice & 64 != 0),
        ..ReadOptions::default()
    };
    if let Ok(set) = LabelledSet::parse(name, &text, &options) {
        assert!(set.rows.iter().all(|row| row.label < set.labels.len() && row.line > 0));
        let _ = set.check_trainable();
        let _ = set.split(0.1, 1);
    }
}

pub fn conll(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(set) = TaggedSet::parse("fuzz", &text) {
        let labels = set.labels();
        for sentence in &set.sentences {
            assert_eq!(sentence.words.len(), sentence.tags.len());
            assert!(sentence.tags.iter().all(|tag| labels.contains(tag)));
        }
    }
}

pub fn srl(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(set) = SrlSet::parse("fuzz", &text) {
        let labels = set.labels();
        for example in &set.examples {
            assert_eq!(example.words.len(), example.tags.len());
            assert!(example.predicate < example.words.len());
            assert!(example.tags.iter().all(|tag| labels.contains(tag)));
        }
    }
}

/// What is accepted comes back from its own text.
pub fn words(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(vocabulary) = WordVocabulary::from_json(&text, "fuzz") {
        assert!(vocabulary.characters() > 0 && !vocabulary.tables().iter().any(|(_, n)| *n == 0));
        assert!(WordVocabulary::from_json(&vocabulary.to_json(), "fuzz").is_ok());
    }
}

pub fn settings(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(pairs) = handloom::cli::layers::parse("fuzz", &text) {
        let pairs: Map<String, Value> =
            pairs.into_iter().map(|(key, _, value)| (key, value)).collect();
        if let Ok(config) = config::resolve::<PretrainConfig>(&pairs) {
            let _ = config.trainer.validate();
            let written = config::to_toml(&config::to_map(&config));
            assert!(toml_again(&written), "{written}");
        }
    }
}

/// What is written can be read.
fn toml_again(text: &str) -> bool {
    handloom::cli::layers::parse("fuzz", text).is_ok()
}

/// Sound files to begin with.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let weights = |header: &str, data: usize| {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![1; data][..]].concat()
    };
    let texts = |all: &[&str]| all.iter().map(|text| text.as_bytes().to_vec()).collect();
    match target {
        "safetensors" => vec![
            weights("{}", 0),
            weights(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8),
            weights(
                r#"{"__metadata__":{"format":"pt"},"a.b":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},"c":{"dtype":"I64","shape":[],"data_offsets":[4,12]}}"#,
                12,
            ),
        ],
        "config" => texts(&[
            r#"{"model_type":"gpt2","vocab_size":50,"n_ctx":8,"n_embd":16,"n_head":2,"n_layer":1,"id2label":{"0":"a"}}"#,
            r#"{"model_type":"bert","hidden_size":16,"num_attention_heads":2,"hidden_act":"gelu","pad_token_id":null}"#,
            r#"{"model_type":"gru","hidden_size":16,"embedding_size":16,"bidirectional":true,"dropout":0.5}"#,
        ]),
        "tokenizer" => texts(&[
            r###"{"added_tokens":[{"id":0,"content":"<unk>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":null,"decoder":{"type":"Fuse"},"model":{"type":"BPE","unk_token":"<unk>","vocab":{"<unk>":0,"a":1,"b":2,"ab":3," ":4,"织":5},"merges":[["a","b"]]}}"###,
            r###"{"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"t":0,"h":1,"e":2,"th":3,"the":4,"Ġ":5},"merges":["t h","th e"]}}"###,
            r###"{"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[UNK]":0,"the":1,"lo":2,"##om":3,"[CLS]":4,"[SEP]":5}}}"###,
            r###"{"normalizer":{"type":"Sequence","normalizers":[{"type":"NFD"},{"type":"Replace","pattern":{"Regex":"o+"},"content":"0"},{"type":"StripAccents"},{"type":"Strip","strip_left":true,"strip_right":true}]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\s+|\\w+"},"behavior":"Isolated","invert":false},{"type":"Digits","individual_digits":true},{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},{"type":"Punctuation","behavior":"Isolated"}]},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}]},"model":{"type":"WordLevel","unk_token":"u","vocab":{"u":0,"▁the":1,"<0x41>":2}}}"###,
        ]),
        "token_file" => {
            let mut head = vec![0u8; 64];
            head[..8].copy_from_slice(b"HANDLOOM");
            (head[8], head[12], head[16], head[32]) = (1, 2, 100, 3);
            let mut wide = head.clone();
            wide[12] = 4;
            vec![[head, vec![1, 0, 2, 0, 3, 0]].concat(), [wide, vec![7; 12]].concat()]
        }
        "manifest" => {
            let checksum = format!("{:016x}", hash_bytes(b"weights"));
            let file = json!({"name": "a.bin", "bytes": 7, "checksum": checksum});
            let manifest = json!({"format": 1, "step": 5, "files": [file]});
            vec![sealed(manifest.as_object().cloned().unwrap_or_default()).into_bytes()]
        }
        "labelled" => texts(&[
            "\0label,text\n1,\"a, \"\"b\"\"\nc\"\n0,d\n",
            "\x01one long text\t0\nanother\t1\n",
            "\x02{\"text\": \"a\", \"label\": 1}\n{\"label\": \"x\", \"text\": \"b\"}\n",
            "\x03\x30 How did it ?\n1 What films ?\n0 Why ?\n1 Who ?\n",
            "\x1csentence1\tsentence2\tlabel\na\tb\t0\nc\td\t1\n",
        ]),
        "conll" => texts(&[
            "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\n# # I-NP O\nGerman JJ I-NP I-MISC\n",
            "科0\tB-ORG.NAM\n技1\tI-ORG.NAM\n10\tO\n\nx\tB_A\ny\tE_A\nz\tS_A\n",
        ]),
        "srl" => texts(&[
            "# d 0 get.01\n#\t0\tB-ARG0\ncan\t0\tI-ARG0\nget\t1\tB-V\n,\t0\tO\n",
            "# d 0\n#\tX\t-\t(ARG0*\t*\ncan\tX\t-\t*)\t*\nget\tX\tget.01\t(V*)\t(ARG1*)\n,\tX\tbe.01\t*\t(V*)\n",
        ]),
        "words" => texts(&[
            r#"{"columns":["word","before","flag"],"tables":{"word":{"entries":["a","b"],"counts":[2,1]},"pair":{"entries":["a\u0001b"],"counts":[2]},"flag":{"entries":["0","1"],"counts":[3,1]}},"characters":["a","b"]}"#,
        ]),
        _ => texts(&[
            "# a run\nmodel = \"gpt\"\nmax_steps = 100\nlearning_rate = 1e-3\ntrain = [\"a.txt\", 'b.txt']\n",
            "budget = \"10m\"\nseed = 0x10\nnesterov = true\noptimizer = \"sgd\"\nout = \"\"\"x\"\"\"\n",
        ]),
    }
}
