//! Owns the language-independent patterns of a folded line: dates, times, addresses, quote bars.
//!
//! Does not interpret a line with such a pattern.

use std::sync::LazyLock;

use regex::Regex;

use super::fold::pattern;

pub(super) static DATE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?:^|[^0-9])(?:(?:19|20|25)[0-9]{2}(?:[^0-9]|$)|[0-9]{1,2}[./-][ ]?[0-9]{1,2}[./-][ ]?[0-9]{2,4}|[0-9]{1,2}月 ?[0-9]{1,2}日|[0-9]{1,2}월 ?[0-9]{1,2}일)",
    )
});

pub(super) static TIME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?:^|[^0-9:.])[0-2]?[0-9](?:[:h時时][0-5][0-9]|\.[0-5][0-9](?:[^0-9.]|$)|시 ?[0-5]?[0-9]분|[点點時][0-5]?[0-9]分)|[0-9] ?(?:[ap]\.?m\.?)(?:[^a-z]|$)",
    )
});

pub(super) static ADDRESS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"[^\s<>"'(,;:]@[^\s<>"'),;:]+|<[^<>]*mailto:"#));

pub(super) static BRACKETED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"[<(\[]\s*(?:mailto:)?[^\s<>()\[\]]+@[^\s<>()\[\]]+\s*(?:<mailto:[^<>]*>)?\s*[>)\]]")
});

/// True if a folded text contains a date, a time or a bracketed address.
pub(super) fn is_dated(joined: &str) -> bool {
    DATE.is_match(joined) || TIME.is_match(joined) || BRACKETED.is_match(joined)
}

/// True if the line breaks off within the address: `On Monday, The Shop <shop@a.`.
pub(super) fn is_torn_open(fold: &str) -> bool {
    let Some((head, tail)) = fold.rsplit_once('<') else {
        return false;
    };
    !head.trim().is_empty() && !tail.contains(['>', ' ']) && tail.len() <= 64
}

/// True for a line that a bar or initials ("AS> ") mark as a quote.
pub(super) fn is_barred(fold: &str) -> bool {
    let initials = fold.trim_start_matches(|c: char| c.is_alphabetic());
    fold.starts_with('|')
        || (1..=4).contains(&(fold.chars().count() - initials.chars().count()))
            && initials.starts_with('>')
}
