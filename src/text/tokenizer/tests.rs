use super::*;
use crate::text::quiet;

const ENGLISH: &str = "The cat sat on the mat. The dog sat on the log, and the cat's dog didn't mind!\n\n\
                       Running, runner, runs: the runners ran.\tTabs  and   spaces.\r\nCafé naïve.\n";
const CHINESE: &str = "黛玉听了，心中感动。宝玉笑道：“好妹妹，你说的是。”\n我们在这里running快跑。";

fn corpus() -> String {
    format!("{ENGLISH}{CHINESE}").repeat(20)
}

fn train(kind: &str) -> Tokenizer {
    Tokenizer::train(kind.parse().unwrap(), [corpus()], quiet).unwrap()
}

fn round_trip(tokenizer: &Tokenizer, text: &str) {
    let ids = tokenizer.encode(text).unwrap();
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    let mut stream = tokenizer.decode_stream();
    let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    streamed.push_str(&stream.finish());
    assert_eq!(streamed, text);
}

#[test]
fn kinds_are_parsed_and_printed() {
    for kind in ["char", "bpe:4096", "wordpiece:8000"] {
        assert_eq!(kind.parse::<TokenizerKind>().unwrap().to_string(), kind);
    }
    for wrong in ["", "chars", "bpe:", "bpe:x", "bpe:-1", "char:5", "wordpiece:99999999999"] {
        assert_eq!(wrong.parse::<TokenizerKind>().unwrap_err().exit_code(), 2, "{wrong}");
    }
}

#[test]
fn char_is_lossless_on_its_corpus() {
    let text = format!("{}literal <unk> stays\n", corpus());
    let tokenizer = Tokenizer::train(TokenizerKind::Char, [text.clone()], quiet).unwrap();
    round_trip(&tokenizer, &text);
    let ids = tokenizer.encode("cat☃").unwrap();
    assert_eq!(ids.len(), 4);
    assert_eq!(ids[3], tokenizer.unk_id().unwrap());
    assert!(!tokenizer.config_json(64).contains("<unk>"));
}

#[test]
fn bpe_is_lossless_on_anything() {
    let tokenizer = train("bpe:350");
    assert_eq!(tokenizer.vocab_size(), 350);
    assert_eq!(tokenizer.eos_id(), Some(0));
    for text in [ENGLISH, CHINESE, "", " ", "\n\n\n", "\0\u{1F600}é\u{301}", "  x  ", "𠀀ⅷ"] {
        round_trip(&tokenizer, text);
    }
    let ids = tokenizer.encode("a<|endoftext|>b").unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == 0).count(), 1);
    // Half a character is held back by the stream and replaced by decode.
    let snow = tokenizer.encode("☃").unwrap();
    assert!(snow.len() > 1);
    let mut stream = tokenizer.decode_stream();
    assert_eq!(stream.push(snow[0]).unwrap(), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert!(stream.push(350).is_err() && tokenizer.decode(&[350]).is_err());
}

#[test]
fn wordpiece_splits_chinese_and_folds_case() {
    let tokenizer = train("wordpiece:300");
    let pieces = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text).unwrap();
        ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap()).collect()
    };
    assert_eq!(pieces("我们笑"), ["我", "们", "笑"]);
    assert_eq!(pieces("THE Café"), pieces("the cafe"));
    assert_eq!(pieces("the cat"), ["the", "cat"]);
    assert_eq!(pieces("鑫"), ["[UNK]"]);
    assert_eq!(
        tokenizer.decode(&tokenizer.encode("The cat, sat.").unwrap()).unwrap(),
        "the cat, sat."
    );
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let ids = [
        tokenizer.pad_id(),
        tokenizer.unk_id(),
        tokenizer.cls_id(),
        tokenizer.sep_id(),
        tokenizer.mask_id(),
    ];
    for (index, (name, id)) in special.iter().zip(ids).enumerate() {
        assert_eq!((id, tokenizer.token_to_id(name)), (Some(index as u32), id));
    }
    assert_eq!(tokenizer.special_ids().iter().filter(|&&s| s).count(), 5);
    let options = TrainOptions { lowercase: false, ..TrainOptions::default() };
    let kind = TokenizerKind::WordPiece { vocab_size: 300 };
    let cased = Tokenizer::train_with(kind, &options, [Ok(corpus())], 0, quiet).unwrap();
    assert_ne!(cased.encode("The").unwrap(), cased.encode("the").unwrap());
    let mut stream = tokenizer.decode_stream();
    let ids = tokenizer.encode("running, runners").unwrap();
    let text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(text, tokenizer.decode(&ids).unwrap());
    // What goes on behind a prompt is parted from it; what goes on within its last word is not.
    let (first, rest) = ids.split_at(1);
    let mut stream = tokenizer.decode_stream().after(first[0]);
    let text: String = rest.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(tokenizer.decode(first).unwrap() + &text, tokenizer.decode(&ids).unwrap());
    assert!(tokenizer.decode_stream().after(ids[0]).push(ids[0]).unwrap().starts_with(' '));
}

#[test]
fn training_gives_the_same_file_at_any_number_of_threads() {
    // More text than one part, so that the count really runs in parallel.
    let text = corpus().repeat(20);
    for kind in ["bpe:500", "wordpiece:400"] {
        let kind: TokenizerKind = kind.parse().unwrap();
        let files: Vec<String> = [1, 2, 3, 8]
            .into_iter()
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    Tokenizer::train(kind, [text.clone()], quiet).unwrap().to_json().to_string()
                })
            })
            .collect();
        assert!(files.iter().all(|file| *file == files[0]), "{kind}");
    }
}

#[test]
fn long_texts_are_cut_without_a_trace() {
    let text = corpus().repeat(60);
    assert!(text.len() > 4 * PART);
    for kind in ["char", "bpe:500", "wordpiece:400"] {
        let tokenizer = train(kind);
        assert!(tokenizer.divisible, "{kind}");
        let whole = tokenizer.encode_part(&text).unwrap();
        assert!(tokenizer.cut(&text).len() > 3);
        assert_eq!(tokenizer.encode(&text).unwrap(), whole, "{kind}");
    }
}

#[test]
fn saved_and_read_again() {
    let path = std::env::temp_dir().join(format!("handloom-tok-{}.json", std::process::id()));
    for kind in ["char", "bpe:400", "wordpiece:300"] {
        let tokenizer = train(kind);
        tokenizer.save(&path).unwrap();
        let again = Tokenizer::from_file(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(again.hash(), tokenizer.hash());
        assert_eq!(again.vocab_size(), tokenizer.vocab_size());
        assert_eq!(again.encode(ENGLISH).unwrap(), tokenizer.encode(ENGLISH).unwrap());
        // Another layout and the other spelling of merges: still the same tokenizer.
        let mut value: Value = serde_json::from_str(tokenizer.to_json()).unwrap();
        for merge in value["model"]["merges"].as_array_mut().into_iter().flatten() {
            *merge =
                json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
        }
        value["truncation"] = json!({ "max_length": 8, "stride": 9, "strategy": "LongestFirst" });
        let compact = Tokenizer::from_bytes(value.to_string().as_bytes()).unwrap();
        assert_eq!(compact.hash(), tokenizer.hash());
        assert_eq!(compact.encode(ENGLISH).unwrap(), tokenizer.encode(ENGLISH).unwrap());
    }
    let (a, b) = (train("bpe:350"), train("bpe:351"));
    assert_ne!(a.hash(), b.hash());
}

#[test]
fn pairs_fit_the_length() {
    let tokenizer = train("wordpiece:300");
    let (cls, sep) = (tokenizer.cls_id().unwrap(), tokenizer.sep_id().unwrap());
    let one = tokenizer.encode_pair("the cat", None, 64).unwrap();
    assert_eq!(one.ids, [cls, one.ids[1], one.ids[2], sep]);
    assert_eq!((one.token_type_ids, one.truncated), (vec![0; 4], 0));
    let two = tokenizer.encode_pair("the cat", Some("the dog"), 64).unwrap();
    assert_eq!(two.token_type_ids, [0, 0, 0, 0, 1, 1, 1]);
    let long = "the cat ".repeat(20);
    for max in 4..60 {
        for (a, b) in [("the cat", long.as_str()), (&long, "the cat"), (&long, &long)] {
            let pair = tokenizer.encode_pair(a, Some(b), max).unwrap();
            let all = tokenizer.encode_pair(a, Some(b), 1000).unwrap().ids.len();
            assert_eq!(pair.ids.len(), max.min(all), "max {max}");
            assert_eq!(pair.ids.len() + pair.truncated, all);
            assert_eq!(pair.ids.len(), pair.token_type_ids.len());
            assert_eq!((pair.ids[0], *pair.ids.last().unwrap()), (cls, sep));
        }
    }
    assert!(tokenizer.encode_pair("the", None, 2).is_err());
    let bpe = train("bpe:400");
    let pair = bpe.encode_pair("the", Some("cat"), 64).unwrap();
    assert!(pair.ids.contains(&0) && pair.token_type_ids.contains(&1));
    assert!(bpe.encode_pair("", None, 64).unwrap().ids.is_empty());
}

#[test]
fn every_word_has_a_piece() {
    for kind in ["char", "bpe:400", "wordpiece:300"] {
        let tokenizer = train(kind);
        let words = ["The", "runners", "我", "们", "\u{200B}", "鑫", ",", "", "dog"];
        let pieces = tokenizer.encode_words(&words).unwrap();
        assert_eq!(pieces.ids.len(), pieces.words.len());
        let mut found = pieces.words.clone();
        assert!(found.is_sorted());
        found.dedup();
        assert!(found.into_iter().eq(0..9), "{kind}");
    }
    // Between words there is the space of running text, but not between Chinese characters.
    let bpe = train("bpe:400");
    assert_eq!(bpe.encode_words(&["the", "cat"]).unwrap().ids, bpe.encode("the cat").unwrap());
    assert_eq!(bpe.decode(&bpe.encode_words(&["我", "们"]).unwrap().ids).unwrap(), "我们");
}

#[test]
fn too_small_and_empty_are_refused() {
    let train = |kind: TokenizerKind, text: &str| {
        Tokenizer::train(kind, [text.to_string()], quiet).err().unwrap().to_string()
    };
    assert!(train(TokenizerKind::Bpe { vocab_size: 256 }, "x").contains("257"));
    assert!(train(TokenizerKind::WordPiece { vocab_size: 5 }, "x").contains("special"));
    for kind in ["char", "bpe", "wordpiece"] {
        assert!(train(kind.parse().unwrap(), "").contains("no text"), "{kind}");
    }
    // Fewer places than characters: the frequent ones stay.
    let tokenizer = Tokenizer::train(
        TokenizerKind::WordPiece { vocab_size: 7 },
        ["山山山山水水水火".to_string()],
        quiet,
    )
    .unwrap();
    assert_eq!(tokenizer.encode("山水火").unwrap().last(), tokenizer.unk_id().as_ref());
    assert_eq!(tokenizer.vocab_size(), 7);
}

/// A change to a good file and what the message must say.
type Damage = (fn(&mut Value), &'static str);

#[test]
fn hostile_files_are_refused_with_a_sentence() {
    let good: Value = serde_json::from_str(train("bpe:300").to_json()).unwrap();
    let damages: &[Damage] = &[
        (|v| *v = json!([]), "no \"model\""),
        (|v| v["model"] = json!(null), "no \"model\""),
        (|v| v["model"]["type"] = json!("Unigram"), "the model is Unigram"),
        (|v| v["model"]["vocab"] = json!(7), "\"vocab\""),
        (|v| v["model"]["vocab"] = json!({}), "empty"),
        (|v| v["model"]["vocab"]["zz"] = json!(-1), "\"zz\" has the id -1"),
        (|v| v["model"]["vocab"]["zz"] = json!(1.5), "\"zz\" has the id 1.5"),
        (|v| v["model"]["vocab"]["zz"] = json!(18446744073709551615u64), "\"zz\" has the id"),
        (|v| v["model"]["vocab"]["zz"] = json!(3), "the same id 3"),
        (|v| v["model"]["merges"] = json!("x"), "no list \"merges\""),
        (|v| v["model"]["merges"] = json!([["a"]]), "merge 1"),
        (|v| v["model"]["merges"] = json!(["a b c"]), "merge 1"),
        (|v| v["model"]["merges"] = json!([["a", "☃"]]), "\"☃\" is not in the vocabulary"),
        (|v| v["model"]["merges"] = json!([["z", "z"]]), "makes \"zz\""),
        (|v| v["model"]["continuing_subword_prefix"] = json!("##"), "does not begin with"),
        (|v| v["model"]["continuing_subword_prefix"] = json!(5), "is not a text"),
        (|v| v["model"]["unk_token"] = json!("none"), "\"none\", which is not"),
        (|v| v["model"]["dropout"] = json!(0.5), "dropout"),
        (|v| v["normalizer"] = json!({ "type": "Precompiled" }), "Precompiled"),
        (|v| v["normalizer"] = json!({ "type": 3 }), "no \"type\""),
        (|v| v["normalizer"] = json!({ "type": "Sequence" }), "no list"),
        (|v| v["pre_tokenizer"] = json!({ "type": "FixedLength", "length": 0 }), "FixedLength"),
        (|v| v["pre_tokenizer"] = json!({ "type": "Split", "pattern": { "Regex": "(" } }), ""),
        (|v| v["decoder"] = json!({ "type": "CTC" }), "CTC"),
        (|v| v["decoder"] = json!({ "type": "Strip", "content": " ", "start": 9 }), "Strip"),
        (|v| v["added_tokens"] = json!({}), "not a list"),
        (|v| v["added_tokens"][0]["content"] = json!(""), "no \"content\""),
        (|v| v["added_tokens"][0]["id"] = json!(5), "another id"),
        (|v| v["added_tokens"][0]["id"] = json!("x"), "no proper \"id\""),
        (|v| v["added_tokens"][0]["content"] = json!("new"), "has the id 0 of"),
        (
            |v| {
                for _ in 0..9 {
                    let inner = v["normalizer"].take();
                    v["normalizer"] = json!({ "type": "Sequence", "normalizers": [inner] });
                }
            },
            "nested",
        ),
    ];
    for (index, (damage, expected)) in damages.iter().enumerate() {
        let mut bad = good.clone();
        damage(&mut bad);
        let error = Tokenizer::from_bytes(bad.to_string().as_bytes()).err();
        let error = error.unwrap_or_else(|| panic!("damage {index} ({expected}) was accepted"));
        assert_eq!(error.exit_code(), 3, "damage {index}");
        assert!(error.to_string().contains(expected), "damage {index}: {error}");
    }
    for (bytes, expected) in [
        (&b""[..], "not JSON"),
        (b"{", "not JSON"),
        (b"\xFF\xFE", "not UTF-8"),
        (br#"{"model":{"vocab":{"a":0,"a":1}}}"#, "occurs twice"),
    ] {
        let message = Tokenizer::from_bytes(bytes).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Tokenizer::from_bytes(deep.as_bytes()).is_err());
}

/// Cutting a good file anywhere, and turning any byte, never panics.
#[test]
fn damaged_bytes_never_panic() {
    let good = train("wordpiece:60").to_json().as_bytes().to_vec();
    let mut rng = crate::text::rng::Rng::new(5, 0);
    for _ in 0..400 {
        let mut bad = good.clone();
        match rng.below(2) {
            0 => bad.truncate(rng.below(good.len())),
            _ => bad[rng.below(good.len())] = b"0\"{}[],:x-9"[rng.below(11)],
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes(&bad) {
            let ids = tokenizer.encode(ENGLISH);
            ids.and_then(|ids| tokenizer.decode(&ids)).ok();
        }
    }
}
