use super::*;

fn parse(name: &str, text: &str, options: &ReadOptions) -> Result<LabelledSet> {
    let path = std::env::temp_dir().join(format!("handloom-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let set = LabelledSet::read(&path, options);
    std::fs::remove_file(&path).unwrap();
    set
}

fn auto(name: &str, text: &str) -> Result<LabelledSet> {
    parse(name, text, &ReadOptions::default())
}

fn rows(set: &LabelledSet) -> Vec<(&str, &str)> {
    set.rows.iter().map(|row| (row.text.as_str(), set.labels[row.label].as_str())).collect()
}

#[test]
fn csv_with_and_without_a_header() {
    let set = auto("a.csv", "label,review\n1,\"很快，好吃\"\n0,\"two\nlines, \"\"quoted\"\"\"\n")
        .unwrap();
    assert_eq!(rows(&set), [("很快，好吃", "1"), ("two\nlines, \"quoted\"", "0")]);
    assert_eq!((set.rows[1].line, set.labels.len()), (3, 2));
    let set = auto("b.csv", "\"3\",\"Fears for pensions\"\n\"4\",\"A second team\"\n\"3\",\"x\"\n");
    assert_eq!(set.unwrap().labels, ["3", "4"]);
    // Three columns: the label repeats, the text is the longest.
    let set = auto("c.csv", "1,ab,long text a\n2,cd,long text b\n1,ef,long text c\n").unwrap();
    assert_eq!(set.rows[0].text, "long text a");
    assert_eq!(set.columns, "text: column 3, label: column 1 (3 columns, without a header)");
}

#[test]
fn tsv_jsonl_and_label_text() {
    let set =
        auto("a.tsv", "one long string of \"cliches\t0\nthere is a fabric\t1\n\"x\t0\n").unwrap();
    assert_eq!(rows(&set)[0], ("one long string of \"cliches", "0"));
    assert_eq!(set.rows[2].text, "\"x");
    let set = auto("a.txt", "词汇阅读\t10\n中国人民\t9\n中国\t9\n").unwrap();
    assert_eq!(
        (set.labels.clone(), rows(&set)[0]),
        (vec!["9".into(), "10".into()], ("词汇阅读", "10"))
    );
    let set =
        auto("a.jsonl", "{\"text\": \"a\", \"label\": 1}\n\n{\"label\": \"x\", \"text\": \"b\"}\n");
    let set = set.unwrap();
    assert_eq!(rows(&set), [("a", "1"), ("b", "x")]);
    assert_eq!(set.rows[1].line, 3);
    let set = auto("TREC.all", "0 How did it ?\n1 What films ?\n0 Why ?\n1 Who ?\n").unwrap();
    assert_eq!(rows(&set)[1], ("What films ?", "1"));
}

#[test]
fn columns_by_name_and_number() {
    let text = "id,head,body,kind\n7,h1,b1,x\n8,h2,b2,y\n";
    let mut options = ReadOptions { label_column: Some("kind".into()), ..ReadOptions::default() };
    options.text_column = Some("head".into());
    options.text_pair_column = Some("body".into());
    let set = parse("a.csv", text, &options).unwrap();
    assert_eq!((set.rows[0].text.as_str(), set.rows[0].text_pair.as_deref()), ("h1", Some("b1")));
    options.text_column = Some("nose".into());
    let message = parse("b.csv", text, &options).unwrap_err().to_string();
    assert!(message.contains("nose") && message.contains("id, head, body, kind"), "{message}");
    let options = ReadOptions { text_column: Some("1".into()), ..ReadOptions::default() };
    let set = parse("c.csv", "abc,1\ndef,2\n", &options).unwrap();
    assert_eq!(rows(&set), [("abc", "1"), ("def", "2")]);
    let pairs = "sentence1\tsentence2\tlabel\na\tb\t0\nc\td\t1\n";
    let set = auto("d.tsv", pairs).unwrap();
    assert_eq!(set.rows[1].text_pair.as_deref(), Some("d"));
}

#[test]
fn wrong_files_are_refused_with_their_line() {
    for (name, text, expected) in [
        ("a.csv", "label,text\n1,a\n2\n", "line 3: 1 columns"),
        ("b.csv", "label,text\n1,a\n,b\n", "line 3: the label is empty"),
        ("c.csv", "label,text\n1,a\n2,\"b\n3,c\n", "line 3: a quote is opened"),
        ("d.csv", "just text\nmore\n", "one column"),
        ("e.csv", "label,text\n", "no example"),
        ("f.tsv", "a\t1\nb\n", "line 2"),
        ("g.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\"}\n", "line 2: there is no"),
        ("h.jsonl", "{\"text\": \"a\", \"label\": 1}\nnot json\n", "line 2: not JSON"),
        ("i.jsonl", "{\"text\": [1], \"label\": 1}\n", "line 1"),
        ("j.csv", "label,head,tail\n1,a,b\n", "--text-column"),
        ("k.txt", "no label here\nnor in this\n", "--format"),
        ("l.csv", "", "empty"),
    ] {
        let error = auto(name, text).err().unwrap_or_else(|| panic!("{name} was accepted"));
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert!(matches!(error.exit_code(), 2 | 3));
    }
    let conll = ReadOptions { format: Format::Conll, ..ReadOptions::default() };
    assert!(parse("m.txt", "a O\n", &conll).unwrap_err().to_string().contains("--task ner"));
    let one = auto("n.csv", "label,text\n1,a\n1,b\n").unwrap();
    assert!(one.check_trainable().unwrap_err().to_string().contains("'1'"));
}

fn sorted_set() -> LabelledSet {
    LabelledSet::from_pairs(
        "s",
        (0..100).map(|i| (format!("t{i}"), if i < 70 { "a" } else { "b" })),
    )
}

#[test]
fn class_sorted_files_are_noticed() {
    assert!(sorted_set().is_sorted_by_class());
    assert!(!sorted_set().shuffled(3).is_sorted_by_class());
    let shuffled = sorted_set().shuffled(3);
    assert_eq!(shuffled.rows, sorted_set().shuffled(3).rows);
    assert_ne!(shuffled.rows, sorted_set().shuffled(4).rows);
}

#[test]
fn limit_is_balanced_and_seeded() {
    let set = sorted_set();
    let some = set.limit(20, 1).unwrap();
    assert_eq!(some.counts(), [10, 10]);
    assert_eq!(some.rows, set.limit(20, 1).unwrap().rows);
    assert_ne!(some.rows, set.limit(20, 2).unwrap().rows);
    assert_eq!(set.limit(90, 1).unwrap().counts(), [60, 30]);
    assert_eq!(set.limit(1000, 1).unwrap().len(), 100);
    assert!(set.limit(1, 1).is_err());
}

#[test]
fn splits_keep_the_classes() {
    let set = sorted_set();
    let (rest, taken) = set.split(0.1, 9).unwrap();
    assert_eq!((rest.counts(), taken.counts()), (vec![63, 27], vec![7, 3]));
    assert_eq!(overlap(&rest, &taken), 0);
    let (rest, taken) = set.split_every(5).unwrap();
    assert_eq!((rest.len(), taken.len()), (80, 20));
    assert_eq!(taken.rows[0].text, "t4");
    assert!(set.split_every(1).is_err() && set.split(1.5, 0).is_err());
}

#[test]
fn overlap_and_unseen_labels() {
    let train = LabelledSet::from_pairs("train", [("x", "a"), ("y", "b"), ("z", "c")]);
    let mut test =
        LabelledSet::from_pairs("test", [("y ", "c"), ("w", "d"), ("v", "d"), ("u", "a")]);
    assert_eq!(overlap(&train, &test), 1);
    assert_eq!(test.align_to(&train.labels), [("d".to_string(), 2)]);
    assert_eq!(test.labels, train.labels);
    assert_eq!(rows(&test), [("y ", "c"), ("u", "a")]);
    assert!(test.check_trainable().unwrap_err().to_string().contains("'b' has no example"));
}

#[test]
fn unlabelled_texts() {
    let path = std::env::temp_dir().join(format!("handloom-{}-lines.txt", std::process::id()));
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let rows = read_unlabelled(&path, &ReadOptions::default()).unwrap();
        rows.into_iter().map(|row| row.text).collect::<Vec<_>>()
    };
    assert_eq!(read("One line, here.\n\nAnother.\n"), ["One line, here.", "Another."]);
    assert_eq!(read("label\ttext\n1\tone\n"), ["one"]);
    std::fs::remove_file(&path).unwrap();
}
