//! Owns the conversion of octets to text: finding the charset and decoding it.
//!
//! Does not trust a label that the octets contradict, and never fails: an octet without meaning becomes
//! U+FFFD.

use mail_parser::decoders::charsets::DecoderFnc;
use mail_parser::decoders::charsets::map::charset_decoder;
use memchr::memmem;

/// The number of octets of an HTML page in which a charset declaration is looked for (HTML standard
/// 13.2.3.2).
const META_BYTES_MAX: usize = 1_024;
/// Octets of the longest charset name.
const NAME_BYTES_MAX: usize = 45;

/// Decodes octets. `label` is the declared charset; `hint` is a charset that the rest of the mail uses.
///
/// A byte order mark and the escape sequences of ISO-2022 win; then the label unless the octets contradict
/// it, then UTF-8, the hint and windows-1252. The label `us-ascii` is ignored, because programs write it
/// without knowing the charset.
pub fn decode(octets: &[u8], label: Option<&str>, hint: Option<&str>) -> String {
    let text = decode_marked(octets, label, hint);
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// True if [`decode`] knows the charset of this name; false for `us-ascii`.
pub fn is_known(name: &str) -> bool {
    Charset::named(name).is_some()
}

/// The charset that an HTML page declares in its first KiB: `<meta charset=…>` or its older form.
pub fn of_page(html: &[u8]) -> Option<String> {
    let start = html[..html.len().min(META_BYTES_MAX)].to_ascii_lowercase();
    let meta = memmem::find(&start, b"<meta")?;
    let at = meta + memmem::find(&start[meta..], b"charset")? + b"charset".len();
    let rest = start[at..].trim_ascii_start().strip_prefix(b"=")?;
    let rest = rest.trim_ascii_start();
    let rest = rest
        .strip_prefix(b"\"")
        .or_else(|| rest.strip_prefix(b"'"))
        .unwrap_or(rest);
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    let name = rest.iter().take(NAME_BYTES_MAX).take_while(|b| is_name(b));
    let name: String = name.copied().map(char::from).collect();
    is_known(&name).then_some(name)
}

/// The name of a charset by its Windows code page; windows-1252 for an unknown number.
pub fn of_codepage(codepage: u32) -> String {
    match codepage {
        65_001 => "utf-8".to_owned(),
        20_127 => "us-ascii".to_owned(),
        932 => "shift_jis".to_owned(),
        936 | 54_936 => "gb18030".to_owned(),
        949 | 51_949 => "euc-kr".to_owned(),
        950 => "big5".to_owned(),
        50_220..=50_222 => "iso-2022-jp".to_owned(),
        51_932 => "euc-jp".to_owned(),
        20_866 => "koi8-r".to_owned(),
        21_866 => "koi8-u".to_owned(),
        874 => "windows-874".to_owned(),
        28_591..=28_605 => format!("iso-8859-{}", codepage - 28_590),
        1_250..=1_258 => format!("windows-{codepage}"),
        _ => "windows-1252".to_owned(),
    }
}

/// A charset, grouped by the way to decode it.
#[derive(Clone, Copy)]
enum Charset {
    Utf8,
    /// ISO-2022-JP (RFC 1468).
    Japanese,
    /// ISO-2022-KR (RFC 1557).
    Korean,
    /// ISO-2022-CN (RFC 1922); only GB 2312 is supported.
    Chinese,
    /// HZ-GB-2312 (RFC 1843).
    Hz,
    Other {
        decoder: DecoderFnc,
        /// True if each octet is a character.
        is_single: bool,
    },
}

impl Charset {
    fn named(name: &str) -> Option<Self> {
        let name = name.trim().trim_matches(['"', '\'']);
        let name = name.to_ascii_lowercase().replace('_', "-");
        Some(match name.as_str() {
            "" | "us-ascii" | "ascii" | "ansi-x3.4-1968" | "unknown-8bit" | "x-unknown"
            | "unknown" | "default" => return None,
            "utf-8" | "utf8" | "unicode-1-1-utf-8" | "x-utf-8" => Self::Utf8,
            "iso-2022-kr" | "csiso2022kr" => Self::Korean,
            "iso-2022-cn" | "iso-2022-cn-ext" => Self::Chinese,
            "hz-gb-2312" | "hz" => Self::Hz,
            "unicode-1-1-utf-7"
            | "x-unicode-1-1-utf-7"
            | "unicode-2-0-utf-7"
            | "x-unicode-2-0-utf-7"
            | "csunicode11utf7" => Self::other("utf-7")?,
            name if name.starts_with("iso-2022-jp") || name == "csiso2022jp" => Self::Japanese,
            name if name.len() <= NAME_BYTES_MAX => Self::other(name)?,
            _ => return None,
        })
    }

    fn other(name: &str) -> Option<Self> {
        let single = [
            "iso-8859",
            "windows-125",
            "cp125",
            "koi8",
            "latin",
            "macintosh",
            "ibm",
        ];
        Some(Self::Other {
            decoder: charset_decoder(name.as_bytes())?,
            is_single: single.iter().any(|start| name.starts_with(start)),
        })
    }

    fn text(self, octets: &[u8]) -> String {
        match self {
            Self::Utf8 => String::from_utf8_lossy(octets).into_owned(),
            Self::Japanese => named_text("iso-2022-jp", &without_empty_shifts(octets)),
            Self::Korean => named_text("euc-kr", &unshifted(octets)),
            Self::Chinese => named_text("gbk", &unshifted(octets)),
            Self::Hz => named_text("gbk", &hz_unshifted(octets)),
            Self::Other { decoder, .. } => decoder(octets),
        }
    }
}

fn named_text(name: &str, octets: &[u8]) -> String {
    match charset_decoder(name.as_bytes()) {
        Some(decoder) => decoder(octets),
        None => String::from_utf8_lossy(octets).into_owned(),
    }
}

fn decode_marked(octets: &[u8], label: Option<&str>, hint: Option<&str>) -> String {
    let named = label.and_then(Charset::named);
    if named.is_none() && (octets.starts_with(b"\xff\xfe") || octets.starts_with(b"\xfe\xff")) {
        return named_text("utf-16", octets);
    }
    if let Some(escaped) = by_escapes(octets) {
        return escaped.text(octets);
    }
    let unicode = str::from_utf8(octets).ok();
    match named {
        Some(Charset::Utf8) | None => match unicode {
            Some(text) => text.to_owned(),
            None if named.is_some() && has_unicode_letters(octets) => {
                String::from_utf8_lossy(octets).into_owned()
            }
            None => guessed(octets, hint),
        },
        Some(charset) => match unicode {
            Some(text) if contradicts(text, charset) => text.to_owned(),
            unicode => {
                let text = charset.text(octets);
                let is_broken = text.contains(char::REPLACEMENT_CHARACTER);
                match unicode {
                    Some(unicode) if is_broken => unicode.to_owned(),
                    None if is_broken && is_seven_bit(charset) => guessed(octets, hint),
                    _ => text,
                }
            }
        },
    }
}

/// The charset that ISO-2022 escape sequences name, if all octets have seven bits.
fn by_escapes(octets: &[u8]) -> Option<Charset> {
    let at = memchr::memchr(0x1b, octets)?;
    if !octets.is_ascii() {
        return None;
    }
    Some(match &octets[at + 1..] {
        [b'$', b'B' | b'@', ..] | [b'(', b'J' | b'I', ..] | [b'$', b'(', b'D', ..] => {
            Charset::Japanese
        }
        [b'$', b')', b'C', ..] => Charset::Korean,
        [b'$', b')', b'A' | b'G' | b'E', ..] => Charset::Chinese,
        _ => return None,
    })
}

const fn is_seven_bit(charset: Charset) -> bool {
    matches!(
        charset,
        Charset::Japanese | Charset::Korean | Charset::Chinese | Charset::Hz
    )
}

/// True if the octets are valid UTF-8 beyond chance, so that the label must be wrong.
fn contradicts(text: &str, charset: Charset) -> bool {
    let (mut twos, mut more) = (0, 0);
    for c in text.chars() {
        match c.len_utf8() {
            1 => {}
            2 => twos += 1,
            _ => more += 1,
        }
    }
    let is_single = matches!(
        charset,
        Charset::Other {
            is_single: true,
            ..
        }
    );
    more > 0 || twos >= if is_single { 1 } else { 4 }
}

/// True if the octets contain a character of several octets in UTF-8.
fn has_unicode_letters(octets: &[u8]) -> bool {
    octets.utf8_chunks().any(|chunk| !chunk.valid().is_ascii())
}

/// Decodes octets that have no valid label and are not UTF-8.
fn guessed(octets: &[u8], hint: Option<&str>) -> String {
    let hinted = hint
        .and_then(Charset::named)
        .map(|charset| charset.text(octets));
    hinted
        .filter(|text| !text.contains(char::REPLACEMENT_CHARACTER))
        .unwrap_or_else(|| named_text("windows-1252", octets))
}

/// The octets without an escape sequence that another one follows at once: the decoder treats it as an
/// error, and programs that encode run by run write it.
fn without_empty_shifts(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut rest = octets;
    while let Some(first) = rest.first() {
        let escape = escape_len(rest);
        if escape == 0 {
            out.push(*first);
            rest = &rest[1..];
            continue;
        }
        if escape_len(&rest[escape..]) == 0 {
            out.extend_from_slice(&rest[..escape]);
        }
        rest = &rest[escape..];
    }
    out
}

fn escape_len(octets: &[u8]) -> usize {
    match octets {
        [0x1b, b'$', b'(' | b')', _, ..] => 4,
        [0x1b, b'$' | b'(', _, ..] => 3,
        _ => 0,
    }
}

/// The octets with the eighth bit set between shift-out and shift-in, as in the eight-bit form of the
/// charset. Each line begins shifted in.
fn unshifted(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut is_out = false;
    let mut rest = octets;
    while let Some((first, behind)) = rest.split_first() {
        let escape = escape_len(rest);
        if escape > 0 {
            rest = &rest[escape..];
            continue;
        }
        match first {
            0x0e => is_out = true,
            0x0f => is_out = false,
            b'\n' => {
                is_out = false;
                out.push(b'\n');
            }
            0x21..=0x7e if is_out => out.push(first | 0x80),
            _ => out.push(*first),
        }
        rest = behind;
    }
    out
}

/// The same conversion for the braces of HZ.
fn hz_unshifted(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut is_out = false;
    let mut rest = octets;
    loop {
        rest = match rest {
            [] => return out,
            [b'~', b'{', behind @ ..] => {
                is_out = true;
                behind
            }
            [b'~', b'}', behind @ ..] => {
                is_out = false;
                behind
            }
            [b'~', b'\n', behind @ ..] | [b'~', b'\r', b'\n', behind @ ..] => behind,
            [b'~', b'~', behind @ ..] if !is_out => {
                out.push(b'~');
                behind
            }
            [first, behind @ ..] => {
                let is_letter = is_out && (0x21..=0x7e).contains(first);
                out.push(if is_letter { first | 0x80 } else { *first });
                behind
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_are_known_guessed_or_ignored() {
        for (octets, label, text) in [
            (&b"\xe1\xe9"[..], Some("ISO-8859-1"), "áé"),
            (b"\x1b$B%O\x1b(B", Some("iso-2022-jp"), "ハ"),
            (b"\xc4\xe3\xba\xc3", Some("gb2312"), "你好"),
            ("\u{feff}é".as_bytes(), None, "é"),
            ("é".as_bytes(), Some("us-ascii"), "é"),
            (b"\xe9", Some("x-unknown"), "é"),
            (b"Gr+APw-n", Some("unicode-1-1-utf-7"), "Grün"),
            (
                b"\x1b$)C\n\x0e>H3gGO<<?d\x0f.",
                Some("iso-2022-kr"),
                "\n안녕하세요.",
            ),
            (b"~{VPND~} ok ~~", Some("hz-gb-2312"), "中文 ok ~"),
            (b"\x1b$)A\x0eVPND\x0f ok", Some("iso-2022-cn"), "中文 ok"),
        ] {
            assert_eq!(decode(octets, label, None), text, "{label:?}");
        }
        assert_eq!(decode(b"\xe9", Some(&"x".repeat(1024)), None), "é");
    }

    #[test]
    fn octets_override_a_wrong_label() {
        for (octets, label, text) in [
            (&b"\x1b$B%O\x1b(B"[..], None, "ハ"),
            (b"\x1b$B%O\x1b(B", Some("utf-8"), "ハ"),
            ("木曜日".as_bytes(), Some("iso-2022-jp"), "木曜日"),
            ("木曜日".as_bytes(), Some("gb2312"), "木曜日"),
            ("Straße".as_bytes(), Some("iso-8859-1"), "Straße"),
            (b"Stra\xdfe", Some("utf-8"), "Straße"),
            ("é\u{fffd}".as_bytes(), Some("utf-8"), "é\u{fffd}"),
            (b"\xc3\xa9\xff", Some("utf-8"), "é\u{fffd}"),
            (b"\xff\xfea\0b\0", None, "ab"),
            (b"=1B $B$3$s", None, "=1B $B$3$s"),
            (
                b"\x1b$B5F\x1b(B\x1b$BLL\x1b(B OK",
                Some("iso-2022-jp"),
                "疑面 OK",
            ),
        ] {
            let decoded = decode(octets, label, None);
            if label == Some("iso-2022-jp") && octets.is_ascii() {
                assert!(!decoded.contains(char::REPLACEMENT_CHARACTER), "{decoded}");
                assert!(decoded.ends_with(" OK"));
            } else {
                assert_eq!(decoded, text, "{label:?}");
            }
        }
        assert_eq!(decode(b"\xbb\xd8", None, Some("gb18030")), "回");
    }

    #[test]
    fn pages_name_their_charset() {
        for (html, name) in [
            ("<html><meta charset=\"EUC-KR\">", Some("euc-kr")),
            (
                "<META http-equiv=x content='text/html; charset=gb2312'>",
                Some("gb2312"),
            ),
            ("<meta charset=nonsense>", None),
            ("charset=euc-kr", None),
        ] {
            assert_eq!(of_page(html.as_bytes()).as_deref(), name, "{html}");
        }
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets: Vec<u8>, label in "(iso-2022-(jp|kr|cn)|hz|utf-7|gbk|utf-8|x)") {
            let text = decode(&octets, Some(&label), Some("euc-kr"));
            prop_assert!(text.len() <= octets.len() * 4 + 4);
        }
    }
}
