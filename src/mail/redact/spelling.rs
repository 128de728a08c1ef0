//! Owns text as it is displayed: encodings decoded, line ends and quote marks distinguished from letters.
//!
//! Does not know addresses.

/// The number of nested encodings that are decoded.
const LAYERS_MAX: usize = 8;

/// A displayed character.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    /// The character in lower case; [`BREAK`] for a line end with the marks around it.
    pub(super) c: char,
    /// The offset of its spelling in the text.
    pub(super) at: usize,
}

/// The character that stands for a line end.
pub(super) const BREAK: char = '\n';

/// The visible characters of the text, in time linear in it.
pub(super) fn units(text: &str) -> Vec<Unit> {
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

/// The first displayed character of the text, `None` if it is invisible; and the length of its spelling in
/// bytes.
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

/// The character in lower case and normal width; `None` if it is invisible.
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

/// The length in octets of a line end and of the spaces and quote marks at the start of the next line.
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

/// The character of two hex digits at `at`, if it is visible.
fn hex(text: &str, at: usize) -> Option<(char, usize)> {
    let digits = text.get(at..at + 2)?;
    let fits = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let byte = u8::from_str_radix(digits, 16).ok().filter(|_| fits)?;
    byte.is_ascii_graphic().then(|| (char::from(byte), at + 2))
}

/// The length in octets of the repetitions of `layer` at the start of the text.
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
