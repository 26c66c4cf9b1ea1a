//! JSON that came from somewhere else, read strictly.
//!
//! `serde_json` alone keeps the last of two equal keys and says nothing. A file with two says two things,
//! and two programs may hear different ones; here it is refused. So is nesting deeper than 128, a lone
//! surrogate, and anything after the value. A byte-order mark, which editors on Windows write, is passed over.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The value that the bytes hold, whatever it is.
///
/// # Errors
/// With the rest of a sentence that begins with the file's name: what is wrong, line and column.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, String> {
    let bytes = bytes.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err("not JSON: the file is empty".into());
    }
    match serde_json::from_slice(bytes) {
        Ok(Strict(value)) => Ok(value),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

/// A value in which no object has a key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Strict, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
                Ok(Value::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
                Ok(v.into())
            }
            fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
                Ok(v.into())
            }
            fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
                Ok(v.into())
            }
            fn visit_str<E>(self, v: &str) -> Result<Value, E> {
                Ok(v.into())
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(Strict(item)) = seq.next_element()? {
                    list.push(item);
                }
                Ok(list.into())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut object = serde_json::Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    let Strict(value) = map.next_value()?;
                    if object.contains_key(&key) {
                        return Err(A::Error::custom(format!("the key {key:?} occurs twice")));
                    }
                    object.insert(key, value);
                }
                Ok(object.into())
            }
        }
        from.deserialize_any(Visit).map(Strict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_json_passes_over_is_refused() {
        for (text, expected) in [
            (r#"{"a": 1, "a": 2}"#, r#"the key "a" occurs twice"#),
            (r#"[{"b": {"c": 0, "c": 0}}]"#, r#"the key "c" occurs twice"#),
            (r#"{"\u0061": 1, "a": 2}"#, "occurs twice"),
            (r#""\ud800""#, "line 1 column"),
            ("[1] 2", "trailing characters"),
            ("NaN", "expected value"),
            (" \n", "empty"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = [vec![b'['; 200_000], vec![b']'; 200_000]].concat();
        assert!(parse(&deep).unwrap_err().contains("recursion limit"));
        let text = "\u{FEFF}{\"a\": [1, -2, 0.5, null, true, \"x\"], \"b\": {}}";
        let plain: Value = serde_json::from_str(&text[3..]).unwrap();
        assert_eq!(parse(text.as_bytes()).unwrap(), plain);
    }
}
