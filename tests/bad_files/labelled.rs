//! Texts, and texts with labels: CSV, TSV, JSONL.

use handloom::text::labelled::{LabelledSet, ReadOptions};
use handloom::text::{Encoding, read_text};

use crate::{Folder, nested, refused};

pub fn texts() {
    let folder = Folder::new();
    let cases: Vec<(&[u8], &str)> = vec![
        (b"", "empty"),
        (b"\xEF\xBB\xBF", "empty"),
        (b"good\nbad \xff", "line 2 & 0xFF at offset 9"),
        (b"\xFF\xFEa\0b\0", "line 1 & 0xFF at offset 0"),
        (b"cut \xE4\xB8", "line 1 & 0xE4 at offset 4"),
        (b"overlong \xC0\x80", "0xC0"),
        (b"surrogate \xED\xA0\x80", "0xED"),
        (b"beyond \xF5\x80\x80\x80", "0xF5"),
    ];
    for (bytes, words) in cases {
        let path = folder.write("t.txt", bytes);
        refused(&format!("{bytes:?}"), &format!("t.txt & {words}"), || {
            read_text(&path, Encoding::Utf8)
        });
    }
}

pub fn labels() {
    let folder = Folder::new();
    let cases: Vec<(&str, &str, &str)> = vec![
        ("a.csv", "", "empty"),
        ("a.csv", "label,text\n", "no example"),
        ("a.csv", "label,text\n\n\n", "no example"),
        ("a.csv", "label,text\n1,\n2,  \n", "no example"),
        ("a.csv", "label,text\n1,a\n2\n", "line 3: 1 columns & 2"),
        ("a.csv", "label,text\n1,a\n2,b,c\n", "line 3: 3 columns"),
        ("a.csv", "label,text\n1,a\n,b\n", "line 3: the label is empty"),
        ("a.csv", "label,text\n1,\"a\n2,b\n", "line 2: a quote is opened and never closed"),
        ("a.csv", "only text\nmore\n", "one column"),
        ("a.csv", "label,head,tail\n1,a,b\n", "--text-column & label, head, tail"),
        ("a.csv", "x,kind,other\na,b,c\n", "--label-column"),
        ("a.tsv", "a\t1\nb\n", "line 2: 1 columns"),
        ("a.tsv", "text\tlabel\nb\t\n", "line 2: the label is empty"),
        ("a.tsv", "\t\t\n", "a.tsv"),
        (
            "a.jsonl",
            "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\"}\n",
            "line 2: there is no \"label\"",
        ),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1}\nnot json\n", "line 2: not JSON"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1}\n[1]\n", "line 2: not a JSON object"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1, \"label\": 2}\n", "line 1: & occurs twice"),
        ("a.jsonl", "{\"text\": [\"a\"], \"label\": 1}\n", "line 1: \"text\" is neither"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": null}\n", "line 1: \"label\" is neither"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": \"  \"}\n", "line 1: the label is empty"),
        ("a.jsonl", "{\"text\": \"\\ud800\", \"label\": 1}\n", "line 1: not JSON"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1}}\n", "line 1: not JSON & trailing"),
        ("a.jsonl", "{}\n", "--text-column"),
        ("a.txt", "nothing is here\nthat looks like labels\n", "--format"),
    ];
    for (name, text, words) in cases {
        let path = folder.write(name, text);
        let options = ReadOptions::default();
        refused(text, &format!("{name} & {words}"), || LabelledSet::read(&path, &options));
    }
    let deep = format!("{{\"text\": {}, \"label\": 1}}\n", nested("[", "]", 100_000));
    let path = folder.write("deep.jsonl", &deep);
    refused(&deep, "line 1: not JSON & recursion", || {
        LabelledSet::read(&path, &ReadOptions::default())
    });
    let path = folder.write("b.csv", "a,b,c\nx,y,z\n");
    for (text, pair, label, words) in [
        ("a", None, "a", "must name different columns"),
        ("a", Some("a"), "b", "must name different columns"),
        ("a", Some("b"), "b", "must name different columns"),
        ("9", None, "a", "--text-column 9"),
        ("0", None, "a", "--text-column 0"),
        ("none", None, "a", "--text-column none & a, b, c"),
        ("a", None, "18446744073709551616", "--label-column"),
    ] {
        let options = ReadOptions {
            text_column: Some(text.into()),
            text_pair_column: pair.map(String::from),
            label_column: Some(label.into()),
            ..ReadOptions::default()
        };
        refused(&format!("{options:?}"), words, || LabelledSet::read(&path, &options));
    }
}
