//! Running text cut into words, as the taggers' corpora have them.
//!
//! White space parts words; punctuation at either end of a word stands alone, inside it stays (`U.S.`,
//! `o'clock`, `3.5`, `well-known`); `n't`, `'s` and their like are words; a Chinese, Japanese or Korean
//! character is a word.

use std::ops::Range;

/// Whether a character is a word of its own: an ideograph, kana or a sign of their script.
fn stands_alone(c: char) -> bool {
    matches!(c as u32,
        0x2E80..=0x9FFF | 0xAC00..=0xD7AF | 0xF900..=0xFAFF | 0xFE30..=0xFE4F | 0xFF00..=0xFF0F
        | 0xFF1A..=0xFF20 | 0xFF3B..=0xFF40 | 0xFF5B..=0xFFEF | 0x20000..=0x3FFFF)
}

/// Whether a character is punctuation at the end of a word.
fn is_mark(c: char) -> bool {
    !c.is_alphanumeric() && !c.is_whitespace()
}

const CLITICS: [&str; 7] = ["n't", "'s", "'re", "'ve", "'ll", "'m", "'d"];

/// The words of a text as ranges of bytes, in order.
pub fn split_words(text: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let ends = c.is_whitespace() || stands_alone(c);
        if ends {
            if let Some(start) = start.take() {
                split_token(text, start..at, &mut words);
            }
            if stands_alone(c) {
                words.push(at..at + c.len_utf8());
            }
        } else if start.is_none() {
            start = Some(at);
        }
    }
    words
}

/// One run without white space.
fn split_token(text: &str, token: Range<usize>, words: &mut Vec<Range<usize>>) {
    let (mut start, mut end) = (token.start, token.end);
    while let Some(c) = text[start..end].chars().next().filter(|&c| is_mark(c)) {
        words.push(start..start + c.len_utf8());
        start += c.len_utf8();
    }
    let mut behind = Vec::new();
    while let Some(c) = text[start..end].chars().next_back().filter(|&c| is_mark(c)) {
        let inside = &text[start..end - c.len_utf8()];
        // A point belongs to an abbreviation: U.S., J.
        let letters = inside.chars().filter(|c| c.is_alphabetic()).count();
        let capital = inside.chars().all(|c| c.is_uppercase() || c == '.');
        if c == '.' && capital && (inside.contains('.') || letters == 1) {
            break;
        }
        behind.push(end - c.len_utf8()..end);
        end -= c.len_utf8();
    }
    let word = &text[start..end];
    let lower = word.to_lowercase();
    let clitic = CLITICS.iter().find(|clitic| {
        lower.len() == word.len() && lower.len() > clitic.len() && lower.ends_with(**clitic)
    });
    let cut = end - clitic.map_or(0, |clitic| clitic.len());
    if start < cut {
        words.push(start..cut);
    }
    if cut < end {
        words.push(cut..end);
    }
    words.extend(behind.into_iter().rev());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_in_the_corpora() {
        for (text, expected) in [
            (
                "Mr. Smith (of the U.S.) didn't pay $3.50.",
                "Mr . Smith ( of the U.S. ) did n't pay $ 3.50 .",
            ),
            ("John's well-known \"cat\"…", "John 's well-known \" cat \" …"),
            ("我在ABC公司。", "我 在 ABC 公 司 。"),
            ("J. Doe", "J. Doe"),
            ("...", ". . ."),
            ("", ""),
        ] {
            let words: Vec<&str> =
                split_words(text).into_iter().map(|range| &text[range]).collect();
            assert_eq!(words.join(" "), expected, "{text}");
        }
    }
}
