//! Owns the removal of reply tokens from text: anyone with a token can write into a thread in another
//! person's name.
//!
//! Does not verify tokens: every text in the form of a token is removed.

mod addresses;
mod spelling;
mod words;

use super::address::Address;
pub use addresses::{local_parts, reply_addresses, reply_addresses_in_name};
pub use words::token_words;

/// The number of characters of the shortest token; mailbox names are shorter.
const TOKEN_CHARS_MIN: usize = 40;
/// The replacement of a token.
const ELLIPSIS: char = '…';
/// The number of characters of a local part that a log line shows.
const LOCAL_SHOWN_MAX: usize = 24;

/// The address for log lines, without any part that may be a token: `reply+…@example.com`. With `has_token`
/// a short local part is replaced too.
pub fn masked(address: &Address, has_token: bool) -> String {
    let local = address.local();
    let domain = address.domain().as_str().escape_debug();
    // A token follows a separator or is long.
    let shown = match local.find(['+', '-']) {
        Some(at) if at < LOCAL_SHOWN_MAX => &local[..=at],
        None if !has_token && local.chars().count() <= LOCAL_SHOWN_MAX => {
            return format!("{}@{domain}", local.escape_debug());
        }
        _ => "",
    };
    format!("{}{ELLIPSIS}@{domain}", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_cut_away() {
        for (address, shown) in [
            ("reply+gezdgnbvgy3tqojq@in.example", "reply+…@in.example"),
            ("reply-gezdgnbvgy3tqojq@in.example", "reply-…@in.example"),
            (
                "gezdgnbvgy3tqojqgezdgnbvgy3tqojq@in.example",
                "…@in.example",
            ),
            (
                "gezdgnbvgy3tqojqgezdgnbvgy3tqojq+x@in.example",
                "…@in.example",
            ),
            ("general@in.example", "general@in.example"),
            ("\"a b\"@in.example", "a b@in.example"),
            ("\u{202e}x@in.example", "\\u{202e}x@in.example"),
        ] {
            assert_eq!(masked(&Address::parse(address).unwrap(), false), shown);
        }
        let short = Address::parse("abc@in.example").unwrap();
        assert_eq!(masked(&short, true), "…@in.example");
    }
}
