use super::*;
use crate::text::{TokenizerKind, quiet};

/// A folder that removes itself.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("handloom-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tokenizer(kind: &str, text: &str) -> Tokenizer {
    Tokenizer::train(kind.parse().unwrap(), [text.to_string()], quiet).unwrap()
}

#[test]
fn built_opened_and_read() {
    let folder = Folder::new("build");
    let text = "Alice met 爱丽丝.\r\n\r\nThen they ran, and ran. ".repeat(8000);
    let (a, b) = (folder.write("a.txt", &text), folder.write("b.txt", format!("\u{FEFF}{text}")));
    let tokenizer = tokenizer("bpe:300", &text);
    let mut last = 0;
    let file =
        TokenFile::build(&[a.clone(), b.clone()], &tokenizer, folder.0.join("out.bin"), |p| {
            assert!(p.done >= last && p.done <= p.total);
            last = p.done;
        })
        .unwrap();
    assert_eq!(last, 2 * text.len() as u64 + 3);
    assert_eq!(file.source_bytes(), 2 * text.len() as u64);
    assert_eq!(
        (file.vocab_size(), file.tokenizer_hash()),
        (tokenizer.vocab_size(), tokenizer.hash())
    );
    let mut expected = tokenizer.encode(&text).unwrap();
    let one = expected.clone();
    expected.push(tokenizer.eos_id().unwrap());
    expected.extend(one);
    assert_eq!(file.len(), expected.len());
    let mut window = [0; 7];
    file.copy_to(1000, &mut window).unwrap();
    assert_eq!(window, expected[1000..1007]);
    let tokens = Tokens::from(file);
    assert_eq!(tokens.to_vec().unwrap(), expected);
    let again = Tokens::from_files(&[a, b], Encoding::Utf8, &tokenizer, quiet).unwrap();
    assert_eq!(again.to_vec().unwrap(), expected);
    // Nothing but the three files: the temporary one is gone.
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 3);
}

#[test]
fn wide_ids_take_four_bytes() {
    let folder = Folder::new("wide");
    let text: String =
        (0x4E00..0x9FFFu32).chain(0x20000..0x2E000).filter_map(char::from_u32).collect();
    let path = folder.write("a.txt", &text);
    let tokenizer = Tokenizer::train(TokenizerKind::Char, [text.clone()], quiet).unwrap();
    assert!(tokenizer.vocab_size() > 1 << 16);
    let file = TokenFile::build(&[path], &tokenizer, folder.0.join("out.bin"), quiet).unwrap();
    assert_eq!(Tokens::from(file).to_vec().unwrap(), tokenizer.encode(&text).unwrap());
}

#[test]
fn every_damage_is_refused() {
    let folder = Folder::new("damage");
    let text = "the cat sat on the mat\n".repeat(50);
    let path = folder.write("a.txt", &text);
    let tokenizer = tokenizer("char", &text);
    let out = folder.0.join("out.bin");
    let open = |bytes: &[u8]| -> String {
        let bad = folder.write("bad.bin", bytes);
        TokenFile::open(bad, Some(tokenizer.hash())).map(|_| String::new()).unwrap_err().to_string()
    };
    TokenFile::build(&[path], &tokenizer, &out, quiet).unwrap();
    let good = std::fs::read(&out).unwrap();
    for (cut, expected) in [(0, "too few"), (63, "too few"), (good.len() - 1, "cut short")] {
        assert!(open(&good[..cut]).contains(expected), "{cut}: {}", open(&good[..cut]));
    }
    let longer = [good.as_slice(), &[0, 0]].concat();
    assert!(open(&longer).contains("too long"));
    for (at, expected) in
        [(0, "not a token file"), (8, "version"), (12, "damaged"), (33, "damaged")]
    {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert!(open(&bad).contains(expected), "byte {at}: {}", open(&bad));
    }
    let mut bad = good.clone();
    bad[HEADER + 100] ^= 1;
    assert!(open(&bad).contains("checksum"));

    // A header that is consistent but wrong in itself.
    let header = |edit: fn(&mut Header), expected: &str| {
        let mut header = Header {
            width: 2,
            vocab_size: tokenizer.vocab_size() as u64,
            tokenizer: tokenizer.hash(),
            count: text.len() as u64,
            source_bytes: text.len() as u64,
            checksum: super::super::file::checksum(&good[HEADER..]),
        };
        edit(&mut header);
        let bad = [&header.to_bytes()[..], &good[HEADER..]].concat();
        let message = open(&bad);
        assert!(message.contains(expected), "{expected}: {message}");
    };
    header(|h| h.width = 3, "3 bytes");
    header(|h| h.count += 1, "cut short");
    header(|h| h.count = u64::MAX, "cut short");
    header(|h| h.vocab_size = 4, "beyond the vocabulary of 4");
    header(|h| h.tokenizer ^= 1, "another tokenizer");
    header(|h| h.checksum ^= 1, "checksum");
    assert!(TokenFile::open(&out, Some(1)).is_err() && TokenFile::open(&out, None).is_ok());
    assert!(TokenFile::open(folder.0.join("none"), None).is_err());
    assert!(TokenFile::open(&folder.0, None).unwrap_err().to_string().contains("folder"));
}

#[test]
fn bad_sources_leave_nothing_behind() {
    let folder = Folder::new("sources");
    let good = folder.write("good.txt", "some text");
    let empty = folder.write("empty.txt", "");
    let latin = folder.write("latin.txt", b"one\ntwo \xE9t\xE9\n");
    let tokenizer = tokenizer("bpe:260", "some text");
    let build = |files: &[PathBuf]| {
        let out = folder.0.join("out.bin");
        TokenFile::build(files, &tokenizer, out, quiet).unwrap_err().to_string()
    };
    assert!(build(&[good.clone(), empty]).contains("empty.txt: the file is empty"));
    let message = build(&[good.clone(), latin.clone()]);
    assert!(message.contains("line 2") && message.contains("offset 8"), "{message}");
    assert!(build(&[good, folder.0.join("none.txt")]).contains("none.txt"));
    assert!(build(&[]).contains("no text files"));
    assert!(build(std::slice::from_ref(&folder.0)).contains("folder"));
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 3);
    let out = folder.0.join("latin.bin");
    let file =
        TokenFile::build_encoded(&[latin], Encoding::Latin1, &tokenizer, out, quiet).unwrap();
    let ids = Tokens::from(file).to_vec().unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "one\ntwo été\n");
}

/// Blocks of a file end where a word ends, with a character across the limit.
#[test]
fn blocks_of_a_long_file_join_without_a_trace() {
    let folder = Folder::new("blocks");
    let text = "Ein Satz über Äpfel, 一二三。 And more.\n".repeat(READ / 30);
    assert!(text.len() > READ);
    let path = folder.write("a.txt", &text);
    let mut blocks = Blocks::open(&path, Encoding::Utf8).unwrap();
    let mut joined = String::new();
    let mut count = 0;
    while let Some(block) = blocks.next().unwrap() {
        joined.push_str(&block);
        count += 1;
    }
    assert!(count > 1 && joined == text);
    let mut bytes = text.into_bytes();
    let wrong = bytes.len() - 3;
    bytes[wrong] = 0xFF;
    let line = lines(&bytes[..wrong]) + 1;
    let path = folder.write("b.txt", &bytes);
    let mut blocks = Blocks::open(&path, Encoding::Utf8).unwrap();
    let error = loop {
        match blocks.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the wrong byte was not found"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains(&format!("line {line}:")), "{error}");
    assert!(error.contains(&format!("offset {wrong})")), "{error}");
}
