//! Cutting a long text into parts that can be tokenised apart with the same result.
//!
//! Tokenising in parallel, or a file in blocks, must not depend on where the cuts fall. A cut is made
//! only where both of our word patterns end a word whatever follows:
//!
//! - before white space that follows something else (the run of spaces stays whole, on the right);
//! - between a full stop, comma or their Chinese forms and a letter or Chinese character;
//!
//! and never near an added token such as `<|endoftext|>`. A text without such a place (a megabyte
//! of letters) is cut between two characters all the same: still lossless, and the place depends on
//! the text alone.

/// How far beyond the wanted length a safe place is looked for, in bytes.
const SEARCH: usize = 16 << 10;

/// Cuts `text` into parts of about `size` bytes.
pub(super) fn cut<'a>(text: &'a str, size: usize, added: &[String]) -> Vec<&'a str> {
    let mut parts = Vec::with_capacity(text.len() / size + 1);
    let mut rest = text;
    while rest.len() > size + SEARCH {
        let (part, tail) = rest.split_at(place(rest, size, added));
        parts.push(part);
        rest = tail;
    }
    if !rest.is_empty() || parts.is_empty() {
        parts.push(rest);
    }
    parts
}

/// The first safe place at or after byte `from`, with `text` longer than `from + SEARCH`.
fn place(text: &str, from: usize, added: &[String]) -> usize {
    let first = boundary(text, from);
    let mut before = text[..first].chars().next_back().unwrap_or(' ');
    for (offset, c) in text[first..].char_indices() {
        let at = first + offset;
        if offset > SEARCH {
            break;
        }
        if ends_word(before, c) && !near_added(text, at, added) {
            return at;
        }
        before = c;
    }
    first
}

fn ends_word(before: char, after: char) -> bool {
    let stop = matches!(before, '.' | ',' | ';' | ':' | '!' | '?' | ')')
        || matches!(before, '。' | '，' | '；' | '：' | '！' | '？' | '、' | '”' | '」' | '．');
    let letter = after.is_ascii_alphabetic() || matches!(after as u32, 0x4E00..=0x9FFF);
    (after.is_whitespace() && !before.is_whitespace()) || (stop && letter)
}

/// Whether an added token stands at, across or just beside this place.
fn near_added(text: &str, at: usize, added: &[String]) -> bool {
    let Some(longest) = added.iter().map(String::len).max() else { return false };
    let start = boundary(text, at.saturating_sub(longest + 4));
    let end = boundary(text, (at + longest + 4).min(text.len()));
    added.iter().any(|token| text[start..end].contains(token.as_str()))
}

/// The first character boundary at or after `at`.
pub(super) fn boundary(text: &str, at: usize) -> usize {
    (at..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_to_the_text() {
        let text = "One two, three.\r\n\r\n  four 五六七。八九 ".repeat(9000);
        for size in [1, 1000, 65536] {
            let parts = cut(&text, size, &[]);
            assert!(parts.len() > 1 && parts.concat() == text);
        }
        assert_eq!(cut("", 10, &[]), [""]);
    }

    #[test]
    fn no_cut_in_an_added_token() {
        let added = ["<|end, of|>".to_string()];
        let text = "<|end, of|>".repeat(4000);
        // Nothing but added tokens: the fallback place may only come after the search.
        assert!(near_added(&text, 5, &added));
        let text = format!("{}<|end, of|>{}", "x".repeat(96), " y".repeat(20_000));
        let parts = cut(&text, 100, &added);
        assert!(parts[0].contains("<|end, of|>"), "{}", parts[0].len());
    }
}
