//! Token files.

use handloom::text::TokenFile;
use handloom::text::hash::{fold, hash_bytes};

use crate::{Folder, refused};

/// A token file of three ids of two bytes with its checksums, after `change` of the header.
fn token_file(ids: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut head = [0u8; 56];
    head[..8].copy_from_slice(b"HANDLOOM");
    head[8..12].copy_from_slice(&1u32.to_le_bytes());
    head[12..16].copy_from_slice(&2u32.to_le_bytes());
    head[16..24].copy_from_slice(&100u64.to_le_bytes());
    head[24..32].copy_from_slice(&7u64.to_le_bytes());
    head[32..40].copy_from_slice(&3u64.to_le_bytes());
    head[48..56].copy_from_slice(&fold(0, hash_bytes(ids)).to_le_bytes());
    change(&mut head);
    [&head[..], &hash_bytes(&head).to_le_bytes(), ids].concat()
}

pub fn files() {
    let folder = Folder::new();
    let ids = [1, 0, 2, 0, 3, 0];
    let good = token_file(&ids, |_| {});
    let open = |bytes: &[u8]| TokenFile::open(folder.write("t.tokens", bytes), Some(7)).map(drop);
    open(&good).unwrap();
    let put = |at: usize, bytes: &'static [u8]| {
        token_file(&ids, move |head| head[at..at + bytes.len()].copy_from_slice(bytes))
    };
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    let mut damaged = good.clone();
    damaged[66] ^= 1;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "0 bytes are too few"),
        (good[..63].to_vec(), "63 bytes are too few"),
        (vec![0; 64], "not a token file"),
        (
            b"just some text, long enough to be taken for a header of 64 bytes".to_vec(),
            "not a token",
        ),
        (put(0, b"handloom"), "not a token file"),
        (put(8, &[2, 0, 0, 0]), "version 2 & version 1"),
        (put(8, &[0, 0, 0, 1]), "version 16777216"),
        (put(12, &[3, 0, 0, 0]), "ids of 3 bytes; expected 2 or 4"),
        (put(12, &[0, 0, 0, 0]), "ids of 0 bytes"),
        (put(12, &[4, 0, 0, 0]), "cut short & need 76 bytes"),
        (put(16, &[3, 0, 0, 0, 0, 0, 0, 0]), "token 2 is 3, beyond the vocabulary of 3"),
        (put(16, &[0; 8]), "token 0 is 1, beyond the vocabulary of 0"),
        (put(24, &[8]), "another tokenizer"),
        (put(32, &[4]), "cut short & 4 tokens need 72 bytes, the file has 70"),
        (put(32, &[2]), "too long"),
        (put(32, &[255; 8]), "cut short & 18446744073709551615 tokens"),
        (put(48, &[0; 8]), "checksum"),
        (flipped, "header is damaged"),
        (damaged, "checksum"),
        (good[..good.len() - 1].to_vec(), "cut short"),
        ([&good[..], b"x"].concat(), "too long"),
    ];
    for (bytes, words) in cases {
        let shown = format!("{bytes:?}");
        refused(&shown, &format!("t.tokens & {words}"), || open(&bytes));
    }
    refused("a folder", "is a folder", || TokenFile::open(&folder.0, None));
    refused("nothing", "cannot read", || TokenFile::open(folder.0.join("none"), None));
}
