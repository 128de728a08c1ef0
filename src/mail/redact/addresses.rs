//! Owns the search for our addresses in text, in any spelling, and the removal of their local parts.
//!
//! Does not verify tokens: a token of an old key and a revoked token are removed too.

use std::borrow::Cow;

use super::spelling::{BREAK, Unit, units};
use super::{ELLIPSIS, TOKEN_CHARS_MIN};
use crate::mail::address::Domain;

/// The number of characters of a v2 token and of a return path's identifier.
const BARE_CHARS: [usize; 2] = [58, 52];
/// The number of characters before an `@` that are examined.
const LOCAL_CHARS_MAX: usize = 200;
/// The number of line ends within one local part.
const BREAKS_MAX: usize = 4;
/// The replacement of a local part with a token.
const NEUTRAL: &str = "reply";

/// The text with each address of the forms `reply+TOKEN@`, `reply-TOKEN@` and `TOKEN@` at one of `domains`
/// replaced by `reply@`. Addresses are found in any case, with the `@` or the `+` percent-encoded, as HTML
/// entities or in quoted-printable, and broken by line ends, quote marks or invisible characters. Linear in
/// the text.
pub fn reply_addresses<'a>(text: &'a str, domains: &[Domain]) -> Cow<'a, str> {
    let search = Search {
        is_name: false,
        takes_all: false,
    };
    search.redacted(text, domains)
}

/// Like [`reply_addresses`], but for a file name, in which an extension may follow the domain.
pub fn reply_addresses_in_name<'a>(name: &'a str, domains: &[Domain]) -> Cow<'a, str> {
    let search = Search {
        is_name: true,
        takes_all: false,
    };
    search.redacted(name, domains)
}

/// The text with the local part of every address at one of `domains` replaced by `…`, in any spelling that
/// [`reply_addresses`] finds. Linear in the text.
pub fn local_parts<'a>(text: &'a str, domains: &[Domain]) -> Cow<'a, str> {
    let search = Search {
        is_name: false,
        takes_all: true,
    };
    search.redacted(text, domains)
}

/// The addresses to search for.
#[derive(Clone, Copy)]
struct Search {
    /// True if a domain may be the beginning of a longer name.
    is_name: bool,
    /// True if every local part is removed, false if only tokens are.
    takes_all: bool,
}

impl Search {
    fn redacted<'a>(self, text: &'a str, domains: &[Domain]) -> Cow<'a, str> {
        if domains.is_empty() || !text.contains(['@', '%', '&', '=', '＠']) {
            return Cow::Borrowed(text);
        }
        let patterns = patterns(domains);
        let units = units(text);
        let mut out = String::new();
        let mut done = 0;
        for at in 0..units.len() {
            let is_ours = |name: &Vec<char>| stands_behind(&units[at + 1..], name, self.is_name);
            if units[at].c != '@' || !patterns.iter().any(is_ours) {
                continue;
            }
            let Some(first) = self.local_before(&units[..at]) else {
                continue;
            };
            let (from, to) = (units[first].at, units[at].at);
            if from < done {
                continue;
            }
            out.push_str(&text[done..from]);
            if self.takes_all {
                out.push(ELLIPSIS);
            } else {
                out.push_str(NEUTRAL);
            }
            done = to;
        }
        if done == 0 && out.is_empty() {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[done..]);
        Cow::Owned(out)
    }

    /// The index of the start of the local part that ends at the end of these units.
    fn local_before(self, units: &[Unit]) -> Option<usize> {
        if !self.takes_all {
            return token_before(units);
        }
        let ends = |c: char| c.is_whitespace() || c.is_control() || "<>\"'(),;:[]=".contains(c);
        let local = units.iter().rev().take_while(|unit| !ends(unit.c));
        Some(units.len() - local.take(LOCAL_CHARS_MAX).count())
    }
}

fn patterns(domains: &[Domain]) -> Vec<Vec<char>> {
    let mut names: Vec<Vec<char>> = Vec::new();
    for domain in domains {
        for name in [domain.as_str().to_owned(), domain.ascii()] {
            let name: Vec<char> = name.chars().flat_map(char::to_lowercase).collect();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// True if the whole domain `name` follows. With `any_end` it may be the beginning of a longer name.
fn stands_behind(units: &[Unit], name: &[char], any_end: bool) -> bool {
    let mut name = name.iter();
    let mut wanted = name.next();
    for (at, unit) in units.iter().enumerate() {
        if unit.c == BREAK {
            continue;
        }
        let Some(next) = wanted else {
            // A longer name is another domain; a trailing full stop is not part of it.
            let follows = units.get(at + 1).map_or(BREAK, |unit| unit.c);
            let goes_on = unit.c.is_alphanumeric()
                || unit.c == '-'
                || (unit.c == '.' && follows.is_alphanumeric());
            let is_new_line = at > 0 && units[at - 1].c == BREAK;
            return any_end || !goes_on || is_new_line;
        };
        if unit.c != *next {
            return false;
        }
        wanted = name.next();
    }
    wanted.is_none()
}

/// The index of the start of the local part with a token that ends at the end of these units.
fn token_before(units: &[Unit]) -> Option<usize> {
    let mut ats = Vec::new();
    // The number of characters after the last line end, on the line of the `@`.
    let mut whole_line = None;
    let mut breaks = 0;
    for (at, unit) in units.iter().enumerate().rev().take(LOCAL_CHARS_MAX) {
        match unit.c {
            BREAK if breaks == BREAKS_MAX => break,
            BREAK => {
                whole_line.get_or_insert(ats.len());
                breaks += 1;
            }
            c if c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '_' | '=' | '.') => {
                ats.push(at);
            }
            _ => break,
        }
    }
    ats.reverse();
    let word: String = ats.iter().map(|at| units[*at].c).collect();
    let line = whole_line.unwrap_or(word.len());
    let first = start(&word, line, |at| ats[at] + 1 == ats[at + 1])?;
    ats.get(first).copied()
}

/// The offset in the word at which the address begins, if it has the form of a token. The last `line`
/// characters of the word are on one line; `is_next` tells whether the character at an index and the next
/// one are adjacent.
fn start(word: &str, line: usize, is_next: impl Fn(usize) -> bool) -> Option<usize> {
    if let Some(plus) = word
        .rfind('+')
        .filter(|plus| word.len() - plus > TOKEN_CHARS_MIN)
    {
        let is_prefix = |at: &usize| word.as_bytes()[*at].is_ascii_alphanumeric() && is_next(*at);
        let prefix = (0..plus).rev().take_while(is_prefix).count();
        return Some(plus - prefix);
    }
    if line >= TOKEN_CHARS_MIN {
        return Some(word.len() - line);
    }
    if word.len() < TOKEN_CHARS_MIN {
        return None;
    }
    // The end of the line above may belong to another word.
    if let Some(prefix) = ["reply-", "bounce-"].iter().find_map(|p| word.rfind(p)) {
        return Some(prefix);
    }
    let is_base32 = |text: &str| text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
    if BARE_CHARS.contains(&word.len()) && is_base32(word) {
        return Some(0);
    }
    // The last line of a token may be short, but the lines above are full.
    (word.len() > 2 * TOKEN_CHARS_MIN && !word.contains('.')).then_some(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V2: &str = "enxzmgp7rode2anufuam6t6jmt7ws7uxp4dzf673opiznszlvxojwmyh6e";
    const V1: &str = "NmY5NjE5ZmYtOGI4Ni00ZDAxLWI0MmQtMDBjZjRmYzk2NGZmOjE3Njk5MDM5OTkwNDI6ZDkwOTgwYTEyY2MzYmE4Mw";

    fn domains() -> Vec<Domain> {
        ["inbox.example.com", "bücher.example"]
            .map(|name| Domain::parse(name).unwrap())
            .to_vec()
    }

    fn redacted(text: &str) -> String {
        reply_addresses(text, &domains()).into_owned()
    }

    #[test]
    fn every_spelling_of_a_reply_address_is_removed() {
        for token in [V1, V2] {
            let (left, right) = token.split_at(30);
            for spelled in [
                format!("reply+{token}@inbox.example.com"),
                format!("Reply-{token}@INBOX.Example.com"),
                format!("{token}@inbox.example.com"),
                format!("{}@inbox.example.com", token.to_uppercase()),
                format!("reply+{token}==@inbox.example.com"),
                format!("reply+{token}@bücher.example"),
                format!("reply+{token}@xn--bcher-kva.example"),
                format!("mailto:reply%2B{token}%40inbox.example.com?subject=x"),
                format!("mailto:reply%252b{token}%2540inbox.example.com"),
                format!("reply&#43;{token}&#x40;inbox&period;example.com"),
                format!("reply&plus;{token}&commat;inbox.example.com"),
                format!("reply&amp;plus;{token}&amp;#64;inbox.example.com"),
                format!("reply=2B{token}=40inbox.example.com"),
                format!("reply+{left}=\r\n{right}@inbox.exam=\r\nple.com"),
                format!("> reply+{left}\n> {right}@inbox.example.com"),
                format!("reply+{left}\r\n{right}@\r\ninbox.example.com"),
                format!("reply+{left}<wbr>{right}@inbox.example.com"),
                format!("reply+{left}\u{200b}{right}@inbox.example.com"),
                format!("reply+{left}&shy;{right}＠inbox.example.com"),
                format!("<reply+{token}@inbox.example.com>,"),
                format!("\"x\" reply+{token}@inbox.example.com."),
            ] {
                let text = format!("Hello, write to {spelled} soon");
                let clean = redacted(&text);
                let folded = clean.to_lowercase();
                let halves = [left, right, &token[5..25]].map(str::to_lowercase);
                let found = halves.iter().find(|half| folded.contains(half.as_str()));
                assert_eq!(found, None, "{text}: {clean}");
                assert!(clean.starts_with("Hello, write to "), "{clean}");
                assert!(clean.ends_with(" soon"), "{clean}");
                assert!(folded.contains("reply"), "{clean}");
            }
        }
    }

    #[test]
    fn every_local_part_at_our_domains_can_be_removed() {
        for (text, safe) in [
            ("550 no <bob@b.example>", "550 no <bob@b.example>"),
            (
                "550 <bounce+abc@INBOX.example.com>: no, reply+x@inbox.example.com.",
                "550 <…@INBOX.example.com>: no, …@inbox.example.com.",
            ),
            ("from=reply+x@inbox.example.com", "from=…@inbox.example.com"),
            ("bounce%2Bx%40inbox.example.com", "…%40inbox.example.com"),
            ("a@b@inbox.example.com c", "…@inbox.example.com c"),
            ("@inbox.example.com", "…@inbox.example.com"),
            ("ünïcode @ nothing", "ünïcode @ nothing"),
        ] {
            assert_eq!(local_parts(text, &domains()), safe);
        }
    }

    #[test]
    fn other_addresses_stay() {
        for text in [
            "support@inbox.example.com and ann+tag@inbox.example.com",
            "reply@inbox.example.com",
            &format!("reply+{V2}@example.com"),
            &format!("reply+{V2}@inbox.example.com.evil.example"),
            &format!("reply+{V2}@inbox.example.community"),
            &format!("https://example.com/{V2}\nsupport@inbox.example.com"),
            "100 % sure & done = 3 @ 5",
            "",
            "@inbox.example.com",
        ] {
            assert!(
                matches!(reply_addresses(text, &domains()), Cow::Borrowed(_)),
                "{text}"
            );
        }
    }

    #[test]
    fn the_line_above_stays() {
        let text = format!("Contact us\nat\nreply+{V2}@inbox.example.com");
        assert_eq!(redacted(&text), "Contact us\nat\nreply@inbox.example.com");
    }

    #[test]
    fn many_addresses_are_removed_in_one_pass() {
        let one = format!("reply+{V2}@inbox.example.com ");
        let many = one.repeat(12_000);
        assert_eq!(redacted(&many), "reply@inbox.example.com ".repeat(12_000));
        // Each text consists only of candidates that are not addresses.
        for text in [
            "@",
            "&amp;",
            "%25",
            "=\r\n",
            "a+@inbox.example.com",
            "<wbr>",
        ] {
            let _ = redacted(&text.repeat((1 << 20) / text.len()));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_processed_fast_and_without_panic(text in "([a-z+@=%&;#<>\\r\\n é]|reply\\+|inbox.example.com|%40|&#64;){0,60}") {
            let once = redacted(&text);
            prop_assert_eq!(redacted(&once), once.clone());
        }

        #[test]
        fn no_token_survives_its_break(cut in 1..57usize, end in prop::sample::select(vec!["\n", "\r\n> ", "=\r\n", "\n>> ", "\u{200b}"])) {
            let text = format!("x reply+{}{end}{}@inbox.example.com", &V2[..cut], &V2[cut..]);
            prop_assert_eq!(redacted(&text), "x reply@inbox.example.com");
        }
    }
}
