//! Owns the removal of words that may be a token or a return path's identifier from foreign text: a relay
//! repeats parts of the mail it refuses, and a token in that text would let its readers answer in another
//! person's name.
//!
//! Does not verify tokens, and does not look for addresses.

use std::borrow::Cow;

use data_encoding::BASE64URL_NOPAD;

use super::{ELLIPSIS, TOKEN_CHARS_MIN};

/// The number of characters from which any word is removed: a relay may have changed the case of a token.
const ANY_WORD_CHARS_MIN: usize = 64;

/// The text with every word that may be a token replaced by `…`. Linear in the text.
pub fn token_words(text: &str) -> Cow<'_, str> {
    if !text
        .split(|c| !is_of_word(c))
        .any(|word| word.len() >= TOKEN_CHARS_MIN)
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_of_word) {
        let (before, from) = rest.split_at(start);
        let (word, behind) = from.split_at(from.find(|c| !is_of_word(c)).unwrap_or(from.len()));
        out.push_str(before);
        if word.len() >= ANY_WORD_CHARS_MIN || is_old_token(word) {
            out.push(ELLIPSIS);
        } else {
            without_base32(word, &mut out);
        }
        rest = behind;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

const fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// True for a v1 token, whole or cut: base64 of words with colons between them.
fn is_old_token(word: &str) -> bool {
    if word.len() < TOKEN_CHARS_MIN {
        return false;
    }
    let whole = &word.as_bytes()[..word.len() / 4 * 4];
    BASE64URL_NOPAD
        .decode(whole)
        .is_ok_and(|text| text.contains(&b':') && text.iter().all(u8::is_ascii_graphic))
}

/// Appends the word without long runs of base32, in any case. Another mark may precede a run.
fn without_base32(word: &str, out: &mut String) {
    let is_base32 = |c: char| matches!(c, 'a'..='z' | 'A'..='Z' | '2'..='7');
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let run = match is_base32(first) {
            true => rest.find(|c| !is_base32(c)),
            false => rest.find(is_base32),
        };
        let (run, behind) = rest.split_at(run.unwrap_or(rest.len()));
        match is_base32(first) && run.len() >= TOKEN_CHARS_MIN {
            true => out.push(ELLIPSIS),
            false => out.push_str(run),
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WORD: &str = "n6lbt74lqzgqdnbnadhu7sle77lhdlqdrak7y7wdjgmupmayioia";

    #[test]
    fn possible_tokens_are_removed_anywhere() {
        let old = BASE64URL_NOPAD.encode(b"t1:1700000000000:0123456789abcdef");
        let uuid = b"3f2b6c1e-8a4d-4f6e-9b7a-2d1c0e5f4a3b:1700000000000:0123456789abcdef";
        let older = BASE64URL_NOPAD.encode(uuid);
        for (text, safe) in [
            (
                format!("550 <bounce+{WORD}@in.example>: no"),
                "550 <bounce+…@in.example>: no",
            ),
            (format!("550 bounce-{WORD}: no"), "550 bounce-…: no"),
            (format!("550 {WORD}"), "550 …"),
            (format!("550 {}", WORD.to_ascii_uppercase()), "550 …"),
            (
                format!("bounce+{WORD}=in.example@relay"),
                "bounce+…=in.example@relay",
            ),
            (format!("bounce%2B{WORD}@"), "bounce%…@"),
            (format!("550 reply+{}", &WORD[..44]), "550 reply+…"),
            (format!("550 {old} no"), "550 … no"),
            (format!("550 {} no", &older[..62]), "550 … no"),
            (format!("550 {} no", older.to_ascii_lowercase()), "550 … no"),
        ] {
            assert_eq!(token_words(&text), safe, "{text}");
        }
    }

    #[test]
    fn a_relays_queue_id_stays() {
        for text in [
            "250 Ok 0102018b1a2b3c4d-5e6f7a8b-9c0d-1e2f-3a4b-5c6d7e8f9a0b-000000",
            "250 2.0.0 OK  1700000000 d9443c01a7336-1c5fc2c1d4bsi8362371plg.215 - gsmtp",
            "250 2.6.0 <3f2b6c1e-8a4d-4f6e-9b7a-2d1c0e5f4a3b@mail.example> [InternalId=88] Queued",
            "250 2.0.0 Ok: queued as 4bXyZ12345z9abcD",
            "550 5.1.1 donaudampfschifffahrtsgesellschaft: no such user",
        ] {
            assert!(
                matches!(token_words(text), Cow::Borrowed(_)) || token_words(text) == text,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_word_is_found_between_any_others(
            before in "[ -~é]{0,50}", behind in "[ -~é]{0,50}", cut in 40usize..53,
        ) {
            let text = format!("{before}{}{behind}", &WORD[..cut]);
            prop_assert!(!token_words(&text).contains(&WORD[..40]));
        }
    }
}
