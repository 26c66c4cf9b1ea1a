//! `config.json`.

use handloom::models::folder;

use crate::{Folder, nested, refused};

pub fn files() {
    let gpt = |more: &str| format!("{{\"model_type\":\"gpt2\",{more}}}");
    let bert = |more: &str| format!("{{\"model_type\":\"bert\",{more}}}");
    let rnn = |more: &str| format!("{{\"model_type\":\"lstm\",{more}}}");
    let cases: Vec<(String, &str)> = vec![
        ("".into(), "not JSON & empty"),
        ("\u{FEFF}".into(), "not JSON & empty"),
        ("{".into(), "not JSON & line 1"),
        ("{}".into(), "`model_type` is missing"),
        ("[]".into(), "not a JSON object"),
        ("\"gpt2\"".into(), "not a JSON object"),
        ("{\"model_type\": \"gpt2\"".into(), "not JSON & line 1 column"),
        ("{'model_type': 'gpt2'}".into(), "not JSON"),
        (gpt("\"n_layer\": 2,"), "not JSON & trailing comma"),
        (gpt("\"n_layer\": NaN"), "not JSON"),
        (gpt("\"n_layer\": 2, \"n_layer\": 3"), "`n_layer`|the key \"n_layer\" occurs twice"),
        ("{\"model_type\":\"gpt2\",\"model_type\":\"bert\"}".into(), "occurs twice"),
        (gpt("\"x\": \"\\ud800\""), "not JSON"),
        (gpt(&format!("\"x\": {}", nested("[", "]", 5000))), "not JSON & recursion"),
        (gpt(&format!("\"x\": {}", nested("{\"a\":", "}", 5000))), "not JSON"),
        ("{\"model_type\":\"llama\"}".into(), "`llama` & gpt2, bert"),
        ("{\"model_type\":null}".into(), "`model_type` is null"),
        (gpt("\"n_layer\": 0"), "n_layer = 0"),
        (gpt("\"n_layer\": -2"), "`n_layer` = -2"),
        (gpt("\"n_layer\": 2.0"), "`n_layer` = 2.0"),
        (gpt("\"n_layer\": \"2\""), "`n_layer` = \"2\""),
        (gpt("\"n_layer\": [2]"), "`n_layer`"),
        (gpt("\"n_layer\": 18446744073709551615"), "n_layer = 18446744073709551615"),
        (gpt("\"n_layer\": 18446744073709551616"), "`n_layer`"),
        (gpt("\"n_layer\": 2147483647, \"n_embd\": 2147483640, \"n_head\": 8"), "parameters"),
        (gpt("\"n_head\": 0"), "n_head = 0"),
        (gpt("\"n_head\": 5"), "5 attention heads do not divide the width 768"),
        (gpt("\"vocab_size\": 0"), "vocab_size = 0"),
        (gpt("\"vocab_size\": 2147483648"), "vocab_size = 2147483648"),
        (gpt("\"n_positions\": 0"), "n_positions = 0"),
        (gpt("\"n_inner\": 0"), "n_inner = 0"),
        (gpt("\"resid_pdrop\": 1.0"), "resid_pdrop = 1"),
        (gpt("\"resid_pdrop\": -0.1"), "resid_pdrop = -0.1"),
        (gpt("\"resid_pdrop\": 1e400"), "not JSON & out of range"),
        (gpt("\"layer_norm_epsilon\": -1"), "epsilon & -1"),
        (gpt("\"activation_function\": \"mish\""), "`mish`"),
        (gpt("\"activation_function\": 3"), "`activation_function` = 3"),
        (gpt("\"scale_attn_weights\": false"), "`scale_attn_weights` = false"),
        (gpt("\"add_cross_attention\": true"), "`add_cross_attention` = true"),
        (bert("\"position_embedding_type\": \"relative_key\""), "relative_key"),
        (bert("\"pad_token_id\": 30522"), "pad_token_id 30522 & vocab_size 30522"),
        (bert("\"num_attention_heads\": 7"), "7 attention heads"),
        (bert("\"is_decoder\": true"), "`is_decoder` = true"),
        (bert("\"type_vocab_size\": 0"), "type_vocab_size = 0"),
        (bert("\"tie_word_embeddings\": false"), "tie_word_embeddings"),
        (rnn("\"nonlinearity\": \"elu\""), "`elu`"),
        (rnn("\"hidden_size\": 7, \"tie_word_embeddings\": true"), "tied & 128 and 7"),
        (rnn("\"num_layers\": 0"), "num_layers = 0"),
        (rnn("\"dropout\": 2"), "dropout = 2"),
    ];
    let folder = Folder::new();
    for (text, words) in cases {
        folder.write("config.json", &text);
        let words = words.rsplit('|').next().unwrap();
        refused(&text, &format!("config.json & {words}"), || folder::read_config(&folder.0));
    }
    folder.write("config.json", b"{\"model_type\": \"gpt2\xff\"}");
    refused("not UTF-8", "config.json & not JSON & line 1", || folder::read_config(&folder.0));
}
