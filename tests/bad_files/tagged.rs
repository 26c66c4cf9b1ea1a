//! Words with tags: CoNLL, semantic roles, and the vocabulary of a tagger.

use handloom::text::conll::TaggedSet;
use handloom::text::srl::SrlSet;
use handloom::text::word_vocabulary::WordVocabulary;

use crate::refused;

pub fn vocabularies() {
    let table = r#"{"entries":["a"],"counts":[1]}"#;
    let whole = |columns: &str, tables: &str| {
        format!("{{\"columns\":{columns},\"tables\":{tables},\"characters\":[\"a\"]}}")
    };
    let good = whole("[\"word\"]", &format!("{{\"word\":{table}}}"));
    WordVocabulary::from_json(&good, "v").unwrap();
    for (text, words) in [
        ("".into(), "empty"),
        ("[]".into(), "invalid"),
        ("{}".into(), "missing field"),
        (good.replace("\"characters\"", "\"columns\""), "\"columns\" occurs twice"),
        (good.replace("[1]", "[1,2]"), "the table `word` is missing or cut"),
        (good.replace("[1]", "[]"), "the table `word` is missing or cut"),
        (good.replace("[1]", "[-1]"), "invalid value"),
        (whole("[\"word\",\"shape\"]", &format!("{{\"word\":{table}}}")), "`shape` is missing"),
        (whole("[\"wort\"]", "{}"), "unknown variant `wort`"),
        (whole("[\"word\"]", "{}"), "`word` is missing"),
        (good.replace("[\"a\"]}", "[\"ab\"]}"), "invalid value"),
    ] {
        refused(&text, &format!("v: not the vocabulary of a tagger & {words}"), || {
            WordVocabulary::from_json(&text, "v")
        });
    }
}

pub fn files() {
    for (text, words) in [
        ("", "no sentence"),
        ("\n\n\n", "no sentence"),
        ("-DOCSTART- -X- O O\n\n", "no sentence"),
        ("EU B-ORG\nrejects\n", "line 2: expected a word and a tag"),
        ("EU B-ORG\n\nrejects VB\n", "line 3: \"VB\" is no span tag"),
        ("EU B-\n", "line 1: \"B-\" is no span tag"),
        ("EU b-ORG\n", "line 1: \"b-ORG\""),
        ("EU X-ORG\n", "line 1: \"X-ORG\""),
        ("EU BORG\n", "line 1: \"BORG\""),
        ("EU o\n", "line 1: \"o\""),
        ("EU\tNNP\n", "line 1: \"NNP\""),
        ("词\u{3000}O\n", "line 1: expected a word and a tag"),
        ("\u{0}\n", "line 1: expected a word and a tag"),
    ] {
        refused(text, &format!("f: & {words}"), || TaggedSet::parse("f", text));
    }
    for (text, words) in [
        ("", "no predicate"),
        ("# only a comment\n", "no predicate"),
        ("a b c\n", "line 1: expected columns parted by tabs"),
        ("a\t0\tO\nb\t0\tO\n", "line 1: no word of the block"),
        ("a\t1\tB-V\nb\t1\tO\n", "line 2: a second predicate"),
        ("a\t1\tV\n", "line 1: \"V\" is no BIO tag"),
        ("a\t1\tB-\n", "line 1: \"B-\" is no BIO tag"),
        ("a\t1\tI-\n", "line 1: \"I-\" is no BIO tag"),
        ("a\tX\n", "line 1: 2 columns"),
        ("a\tX\tb.01\n", "line 1: 1 predicates but 0 columns"),
        ("a\tX\t-\t*\n", "line 1: 0 predicates but 1 columns"),
        ("a\tX\tb.01\t(V*)\nc\tX\t-\n", "line 2: 3 columns & 4 in the first"),
        ("a\tX\tb.01\t(V*\n", "line 1: a bracket that is never closed"),
        ("a\tX\tb.01\t*)\n", "line 1: \"*)\": brackets that do not match"),
        ("a\tX\tb.01\t(A0(V*))\n", "line 1: & brackets"),
        ("a\tX\tb.01\t(*)\n", "line 1: \"(*)\""),
        ("a\tX\tb.01\t\n", "line 1: \"\": brackets"),
        ("a\tX\tb.01\t(V*\nb\tX\t-\t(A0*)\n", "line 2: & brackets"),
    ] {
        refused(text, &format!("f: & {words}"), || SrlSet::parse("f", text));
    }
}
