//! Owns removing reply addresses from text that goes to another person.
//!
//! Does not verify tokens: everything of a token's form before a reply domain is removed, since the
//! tokens of old keys and revoked tokens are confidential too.

use std::borrow::Cow;

use crate::mail::address::Domain;

/// The least characters of a word that may be a token; names of mailboxes are shorter.
const TOKEN_CHARS_MIN: usize = 40;
/// Characters of a v2 token and of a return path's signed id.
const BARE_CHARS: [usize; 2] = [58, 52];
/// The most characters before an `@` that are read.
const LOCAL_CHARS_MAX: usize = 200;
/// The most line ends within one local part.
const BREAKS_MAX: usize = 4;
/// The most nested encodings that are decoded.
const LAYERS_MAX: usize = 8;
/// The replacement for a local part with a token.
const NEUTRAL: &str = "reply";

/// The text with each address of the forms `reply+TOKEN@`, `reply-TOKEN@` and `TOKEN@` at one of
/// `domains` replaced by `reply@`. Addresses are found in any case, with the `@` or the `+`
/// percent-encoded, as HTML entities or in quoted-printable, and broken by line ends, quote marks
/// or invisible characters. The time is linear in the text.
pub fn redact<'a>(text: &'a str, domains: &[Domain]) -> Cow<'a, str> {
    taken_out(text, domains, false)
}

/// As [`redact`], but for a file name, in which an extension may follow the domain.
pub(super) fn redact_name<'a>(name: &'a str, domains: &[Domain]) -> Cow<'a, str> {
    taken_out(name, domains, true)
}

fn taken_out<'a>(text: &'a str, domains: &[Domain], is_name: bool) -> Cow<'a, str> {
    if domains.is_empty() || !text.contains(['@', '%', '&', '=', '＠']) {
        return Cow::Borrowed(text);
    }
    let patterns = patterns(domains);
    let units = units(text);
    let mut out = String::new();
    let mut done = 0;
    for at in 0..units.len() {
        if units[at].c != '@'
            || !patterns
                .iter()
                .any(|name| stands_behind(&units[at + 1..], name, is_name))
        {
            continue;
        }
        let Some(first) = token_before(&units[..at]) else {
            continue;
        };
        let (from, to) = (units[first].at, units[at].at);
        if from < done {
            continue;
        }
        out.push_str(&text[done..from]);
        out.push_str(NEUTRAL);
        done = to;
    }
    if done == 0 && out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// A character as a reader sees it, and the position where its spelling begins.
#[derive(Clone, Copy)]
struct Unit {
    /// The character in lower case; [`BREAK`] for a line end with the white space and quote marks
    /// around it.
    c: char,
    at: usize,
}

const BREAK: char = '\n';

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

/// Tells whether the whole domain `name` begins here. With `any_end` it may be the beginning of a
/// longer name.
fn stands_behind(units: &[Unit], name: &[char], any_end: bool) -> bool {
    let mut name = name.iter();
    let mut wanted = name.next();
    for (at, unit) in units.iter().enumerate() {
        if unit.c == BREAK {
            continue;
        }
        let Some(next) = wanted else {
            // A longer name is another domain; a full stop at the end is punctuation.
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

/// The start of the local part with a token that ends these units.
fn token_before(units: &[Unit]) -> Option<usize> {
    let mut ats = Vec::new();
    // The number of characters behind the last line end, which belong to this line.
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

/// The start of the address in the word, if it has a token's form. The last `line` characters of
/// the word stand on one line; `is_next` tells whether the characters at an index and behind it are
/// adjacent.
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
    // The last line of a token may be short, but the part above it fills a line.
    (word.len() > 2 * TOKEN_CHARS_MIN && !word.contains('.')).then_some(0)
}

fn units(text: &str) -> Vec<Unit> {
    let mut units = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some((c, bytes)) = unit(&text[at..]) {
        if let Some(c) = c {
            units.push(Unit { c, at });
        }
        at += bytes;
    }
    units
}

/// The first character of the text as it is seen, `None` if it is invisible, and the number of
/// bytes of its spelling.
fn unit(text: &str) -> Option<(Option<char>, usize)> {
    let first = text.chars().next()?;
    let spelled = match first {
        '\r' | '\n' => Some((BREAK, line_end(text))),
        '=' => soft_break(text).or_else(|| hex(text, 1)),
        '%' => {
            let layers = layers(&text[1..], "25");
            hex(text, 1 + layers)
        }
        '&' => entity(text),
        '<' => ["<wbr>", "<wbr/>", "<wbr />", "<br>", "<br/>", "<br />"]
            .iter()
            .find(|tag| starts_with(text, tag))
            .map(|tag| (BREAK, tag.len())),
        _ => None,
    };
    let (c, bytes) = spelled.unwrap_or_else(|| (first, first.len_utf8()));
    Some((seen(c), bytes))
}

/// The character in lower case and plain width; `None` if it is invisible.
fn seen(c: char) -> Option<char> {
    match c {
        '\u{ad}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => None,
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).and_then(seen),
        c => c.to_lowercase().next(),
    }
}

/// Octets of a line end with the spaces and quote marks that begin the next line.
fn line_end(text: &str) -> usize {
    text.find(|c: char| !matches!(c, '\r' | '\n' | ' ' | '\t' | '>' | '|'))
        .unwrap_or(text.len())
}

/// The soft line break of quoted-printable (RFC 2045 section 6.7).
fn soft_break(text: &str) -> Option<(char, usize)> {
    let rest = text[1..].trim_start_matches([' ', '\t']);
    let spaces = text.len() - 1 - rest.len();
    (spaces < 76 && rest.starts_with(['\r', '\n'])).then(|| (BREAK, 1 + spaces + line_end(rest)))
}

/// The visible character that the two hex digits at `at` stand for.
fn hex(text: &str, at: usize) -> Option<(char, usize)> {
    let digits = text.get(at..at + 2)?;
    let fits = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let byte = u8::from_str_radix(digits, 16).ok().filter(|_| fits)?;
    byte.is_ascii_graphic().then(|| (char::from(byte), at + 2))
}

/// Octets of the repetitions of `layer` at the start of the text.
fn layers(text: &str, layer: &str) -> usize {
    let mut bytes = 0;
    for _ in 0..LAYERS_MAX {
        if !starts_with(&text[bytes..], layer) {
            break;
        }
        bytes += layer.len();
    }
    bytes
}

fn entity(text: &str) -> Option<(char, usize)> {
    const NAMED: [(&str, char); 10] = [
        ("plus;", '+'),
        ("commat;", '@'),
        ("period;", '.'),
        ("lowbar;", '_'),
        ("equals;", '='),
        ("hyphen;", '-'),
        ("dash;", '-'),
        ("shy;", '\u{ad}'),
        ("zwnj;", '\u{200c}'),
        ("zwj;", '\u{200d}'),
    ];
    let at = 1 + layers(&text[1..], "amp;");
    let rest = &text[at..];
    if let Some((name, c)) = NAMED.iter().find(|(name, _)| starts_with(rest, name)) {
        return Some((*c, at + name.len()));
    }
    let number = rest.strip_prefix('#')?;
    let (digits, radix, sign) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16, 2),
        None => (number, 10, 1),
    };
    let count = digits
        .bytes()
        .take(9)
        .take_while(|b| char::from(*b).is_digit(radix))
        .count();
    let c = char::from_u32(u32::from_str_radix(&digits[..count], radix).ok()?)?;
    let semicolon = usize::from(digits[count..].starts_with(';'));
    Some((c, at + sign + count + semicolon))
}

fn starts_with(text: &str, word: &str) -> bool {
    text.get(..word.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(word))
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
        redact(text, &domains()).into_owned()
    }

    #[test]
    fn every_spelling_of_a_reply_address_goes() {
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
    fn what_is_no_reply_address_stays() {
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
                matches!(redact(text, &domains()), Cow::Borrowed(_)),
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
    fn many_are_done_in_one_pass() {
        let one = format!("reply+{V2}@inbox.example.com ");
        let many = one.repeat(12_000);
        assert_eq!(redacted(&many), "reply@inbox.example.com ".repeat(12_000));
        // None of these candidates is a token.
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
        fn it_never_panics_and_is_done_at_once(text in "([a-z+@=%&;#<>\\r\\n é]|reply\\+|inbox.example.com|%40|&#64;){0,60}") {
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
