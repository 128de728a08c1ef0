//! Owns the reading of Rich Text (RTF) from Exchange: its compression ([MS-OXRTFCP]), the HTML within it
//! ([MS-OXRTFEX]), and its words.
//!
//! Does not keep formatting, pictures or fields. The reader takes one pass and uses no recursion.

use crate::mail::{charset, html};

/// The maximum number of octets of Rich Text that are unpacked.
const RTF_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The maximum number of octets of words that are kept.
const WORDS_BYTES_MAX: usize = 1024 * 1024;
/// The maximum depth of groups whose state is kept; deeper groups have the state of the last one.
const DEPTH_MAX: usize = 200;

/// The initial dictionary of every compressed text ([MS-OXRTFCP] section 2.1.2.1).
const DICTIONARY: &[u8] = b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \
\\fmodern \\fscript \\fdecor MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\
\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx";

/// The contents of Rich Text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RichText {
    /// The HTML from which the Rich Text was made.
    Html(String),
    Words(String),
}

/// Unpacks compressed Rich Text. `None` if the octets are not compressed Rich Text.
pub(super) fn unpacked(packed: &[u8]) -> Option<Vec<u8>> {
    const PACKED: &[u8] = b"LZFu";
    const PLAIN: &[u8] = b"MELA";
    let size = u32::from_le_bytes(packed.get(4..8)?.try_into().ok()?);
    let size = usize::try_from(size).ok()?.min(RTF_BYTES_MAX);
    let content = packed.get(16..)?;
    match packed.get(8..12)? {
        PLAIN => Some(content[..content.len().min(size)].to_vec()),
        PACKED => Some(inflated(content, size)),
        _ => None,
    }
}

/// Undoes the compression; the text ends at the first error.
fn inflated(packed: &[u8], size: usize) -> Vec<u8> {
    const WINDOW: usize = 4096;
    let mut window = [b' '; WINDOW];
    window[..DICTIONARY.len()].copy_from_slice(DICTIONARY);
    let mut at = DICTIONARY.len();
    let mut out = Vec::with_capacity(size.min(packed.len() * 4));
    let mut input = packed.iter().copied();
    while let Some(control) = input.next() {
        for bit in 0..8 {
            if out.len() >= size {
                return out;
            }
            if control >> bit & 1 == 0 {
                let Some(byte) = input.next() else { return out };
                window[at] = byte;
                at = (at + 1) % WINDOW;
                out.push(byte);
                continue;
            }
            let (Some(high), Some(low)) = (input.next(), input.next()) else {
                return out;
            };
            let reference = usize::from(high) << 8 | usize::from(low);
            let (mut from, length) = (reference >> 4, (reference & 0xf) + 2);
            // A reference to the write position marks the end.
            if from == at {
                return out;
            }
            for _ in 0..length {
                let byte = window[from];
                from = (from + 1) % WINDOW;
                window[at] = byte;
                at = (at + 1) % WINDOW;
                out.push(byte);
            }
        }
    }
    out.truncate(size);
    out
}

/// The words of Rich Text that came as a text part; the text itself if it cannot be read.
pub(super) fn words(text: &str) -> String {
    match read(text.as_bytes()) {
        Some(RichText::Words(words)) => words,
        Some(RichText::Html(page)) => html::parse(&page).words(),
        None => text.to_owned(),
    }
}

/// Reads Rich Text. `None` if the octets are not Rich Text, or contain no words.
pub(super) fn read(rtf: &[u8]) -> Option<RichText> {
    if !rtf.trim_ascii_start().starts_with(b"{\\rtf") {
        return None;
    }
    let mut reader = RtfReader::default();
    reader.run(&rtf[..rtf.len().min(RTF_BYTES_MAX)]);
    reader.flush();
    let text = reader.out;
    if text.trim().is_empty() {
        return None;
    }
    Some(if reader.is_html {
        RichText::Html(text)
    } else {
        RichText::Words(text.trim_end().to_owned())
    })
}

/// The state of a group.
#[derive(Clone, Copy, Default)]
struct Group {
    /// True if nothing in the group is text.
    is_hidden: bool,
    /// True if the group holds a tag of the HTML.
    is_tag: bool,
    /// True if the text is for programs that show no HTML.
    is_for_rtf: bool,
    /// The number of characters that replace a Unicode character, plus one; 0 means the default of one
    /// character.
    fallback: usize,
}

#[derive(Default)]
struct RtfReader {
    out: String,
    /// Octets in the document's charset.
    octets: Vec<u8>,
    codepage: Option<u32>,
    group: Group,
    groups: Vec<Group>,
    /// The number of open groups beyond the bound.
    overflow: usize,
    is_html: bool,
    /// The number of characters to skip after a Unicode character.
    skip: usize,
    /// True if the group has just begun with `\*`.
    is_optional: bool,
    surrogate: Option<u16>,
}

impl RtfReader {
    fn run(&mut self, mut rest: &[u8]) {
        while let Some((&first, behind)) = rest.split_first() {
            if self.out.len() + self.octets.len() > WORDS_BYTES_MAX {
                return;
            }
            rest = behind;
            match first {
                b'{' => self.open(),
                b'}' => self.close(),
                b'\\' => rest = self.control(rest),
                b'\r' | b'\n' => {}
                byte => self.octet(byte),
            }
        }
    }

    fn open(&mut self) {
        self.is_optional = false;
        if self.groups.len() == DEPTH_MAX {
            self.overflow += 1;
        } else {
            self.groups.push(self.group);
        }
    }

    fn close(&mut self) {
        self.is_optional = false;
        self.skip = 0;
        if self.overflow > 0 {
            self.overflow -= 1;
        } else {
            self.group = self.groups.pop().unwrap_or_default();
        }
    }

    /// Reads the control after a backslash, and returns the rest.
    fn control<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let Some((&first, behind)) = rest.split_first() else {
            return rest;
        };
        if !first.is_ascii_alphabetic() {
            return self.symbol(first, behind);
        }
        let letters = rest
            .iter()
            .take(32)
            .take_while(|b| b.is_ascii_alphabetic())
            .count();
        let (name, behind) = rest.split_at(letters);
        let is_negative = behind.first() == Some(&b'-');
        let number = &behind[usize::from(is_negative)..];
        let digits = number
            .iter()
            .take(10)
            .take_while(|b| b.is_ascii_digit())
            .count();
        let (mut value, mut behind) = (None, behind);
        if digits > 0 {
            let text = str::from_utf8(&number[..digits]).unwrap_or_default();
            value = text.parse::<i64>().ok();
            if is_negative {
                value = value.map(|value| -value);
            }
            behind = &number[digits..];
        }
        let behind = behind.strip_prefix(b" ").unwrap_or(behind);
        if name == b"bin" {
            let length = usize::try_from(value.unwrap_or(0)).unwrap_or(0);
            return &behind[length.min(behind.len())..];
        }
        self.word(name, value);
        behind
    }

    fn symbol<'a>(&mut self, symbol: u8, behind: &'a [u8]) -> &'a [u8] {
        match symbol {
            b'*' => self.is_optional = true,
            b'\'' => {
                let hex = behind.get(..2).and_then(|hex| str::from_utf8(hex).ok());
                let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
                    return behind;
                };
                self.octet(byte);
                return &behind[2..];
            }
            b'~' => self.text("\u{a0}"),
            b'_' => self.text("-"),
            b'\\' | b'{' | b'}' => self.octet(symbol),
            b'\r' | b'\n' => self.text("\n"),
            _ => {}
        }
        behind
    }

    fn word(&mut self, name: &[u8], value: Option<i64>) {
        let is_on = value != Some(0);
        let is_optional = std::mem::take(&mut self.is_optional);
        match name {
            b"fromhtml" => self.is_html = is_on,
            b"htmltag" => {
                self.group.is_tag = true;
                self.group.is_hidden = !self.is_html;
            }
            b"htmlrtf" => self.group.is_for_rtf = is_on,
            b"ansicpg" => self.codepage = value.and_then(|value| u32::try_from(value).ok()),
            b"uc" => {
                self.group.fallback = usize::try_from(value.unwrap_or(1)).unwrap_or(1).min(8) + 1
            }
            b"u" => self.unicode(value.unwrap_or(0)),
            b"par" | b"line" | b"sect" | b"page" | b"row" => self.text("\n"),
            b"tab" | b"cell" => self.text("\t"),
            b"emdash" => self.text("—"),
            b"endash" => self.text("–"),
            b"bullet" => self.text("•"),
            b"lquote" => self.text("‘"),
            b"rquote" => self.text("’"),
            b"ldblquote" => self.text("“"),
            b"rdblquote" => self.text("”"),
            b"fonttbl" | b"colortbl" | b"stylesheet" | b"info" | b"pict" | b"object"
            | b"header" | b"footer" | b"headerl" | b"headerr" | b"footerl" | b"footerr"
            | b"fldinst" | b"themedata" | b"datastore" | b"listtable" | b"listoverridetable" => {
                self.group.is_hidden = true;
            }
            b"mhtmltag" | b"pntext" | b"pn" => self.group.is_hidden = true,
            _ if is_optional => self.group.is_hidden = true,
            _ => {}
        }
    }

    fn unicode(&mut self, value: i64) {
        let unit = u16::try_from(value.rem_euclid(65_536)).unwrap_or_default();
        self.skip = match self.group.fallback {
            0 => 1,
            count => count - 1,
        };
        let units: Vec<u16> = self.surrogate.take().into_iter().chain([unit]).collect();
        if units.len() == 1 && (0xd800..0xdc00).contains(&unit) {
            self.surrogate = Some(unit);
            return;
        }
        let text: String = char::decode_utf16(units)
            .map(|c| c.unwrap_or('\u{fffd}'))
            .collect();
        self.shown(&text);
    }

    fn octet(&mut self, byte: u8) {
        if self.skip > 0 {
            self.skip -= 1;
        } else if self.is_shown() {
            self.octets.push(byte);
        }
    }

    fn text(&mut self, text: &str) {
        self.skip = 0;
        self.shown(text);
    }

    fn shown(&mut self, text: &str) {
        if self.is_shown() {
            self.flush();
            self.out.push_str(text);
        }
    }

    const fn is_shown(&self) -> bool {
        !(self.group.is_hidden || (self.is_html && self.group.is_for_rtf))
    }

    fn flush(&mut self) {
        if self.octets.is_empty() {
            return;
        }
        let label = self
            .codepage
            .map_or_else(|| "windows-1252".to_owned(), charset::of_codepage);
        self.out
            .push_str(&charset::decode(&self.octets, Some(&label), None));
        self.octets.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rich(rtf: &str) -> Option<RichText> {
        read(rtf.as_bytes())
    }

    #[test]
    fn the_dictionary_is_that_of_the_standard() {
        assert_eq!(DICTIONARY.len(), 207);
    }

    #[test]
    fn the_example_of_the_standard_is_unpacked() {
        // This is the example of [MS-OXRTFCP] section 4.1.1.
        let packed = data_encoding::HEXLOWER
            .decode(
                b"2d0000002b0000004c5a4675f1c5c7a703000a00726370673132354232\
                  0af32068656c090020627705b06c647d0a800fa0",
            )
            .unwrap();
        assert_eq!(
            unpacked(&packed).unwrap(),
            b"{\\rtf1\\ansi\\ansicpg1252\\pard hello world}\r\n"
        );
        assert_eq!(unpacked(b"short"), None);
    }

    #[test]
    fn words_and_pages_come_out() {
        for (rtf, text) in [
            (
                "{\\rtf1\\ansi\\ansicpg1252{\\fonttbl{\\f0 Arial;}}Gr\\'fc\\'dfe\\par {\\b Ja}\\line\n5 \\{x\\}}",
                "Grüße\nJa\n5 {x}",
            ),
            ("{\\rtf1\\ansicpg1251 \\'c4\\'e0\\par}", "Да"),
            (
                "{\\rtf1\\uc1 \\u26085?\\u26412?\\u-10179?\\u-8704?}",
                "日本😀",
            ),
            (
                "{\\rtf1{\\*\\generator Word;}{\\pict 00ff}x\\bin3 }}}y}",
                "xy",
            ),
        ] {
            assert_eq!(rich(rtf), Some(RichText::Words(text.to_owned())), "{rtf}");
        }
        let page = "{\\rtf1\\ansi\\fromhtml1 {\\*\\htmltag64 <p>}\\htmlrtf {\\par\\htmlrtf0 Oui, \
            {\\*\\htmltag84 &nbsp;}jeudi\\htmlrtf\\par}\\htmlrtf0{\\*\\htmltag72 </p>}}";
        assert_eq!(
            rich(page),
            Some(RichText::Html("<p>Oui, &nbsp;jeudi</p>".to_owned()))
        );
        assert_eq!(rich("{\\rtf1 }"), None);
        assert_eq!(rich("plain"), None);
        assert_eq!(words("{\\rtf1 Ja\\par}"), "Ja");
    }

    #[test]
    fn hostile_texts_are_bounded() {
        let deep = format!("{{\\rtf1{}x", "{".repeat(5_000_000));
        assert_eq!(rich(&deep), Some(RichText::Words("x".to_owned())));
        let long = format!("{{\\rtf1 {}}}", "a".repeat(5_000_000));
        let Some(RichText::Words(text)) = rich(&long) else {
            panic!("no words");
        };
        assert!(text.len() <= WORDS_BYTES_MAX + 1);
        // Seventeen octets result from each two.
        let mut bomb = b"\0\0\0\0\xff\xff\xff\xffLZFu\0\0\0\0".to_vec();
        bomb.extend(
            b"\xff\x00\x0f\x00\x0f\x00\x0f\x00\x0f\x00\x0f\x00\x0f\x00\x0f\x00\x0f".repeat(200_000),
        );
        assert!(unpacked(&bomb).unwrap().len() <= RTF_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets: Vec<u8>, text in "(\\{|\\}|\\\\|rtf1|\\\\u-?[0-9]{1,5}|\\\\'[0-9a-f]|\\\\bin[0-9]|x| ){0,40}") {
            let _ = read(&[b"{\\rtf1".as_slice(), text.as_bytes(), &octets].concat());
            let _ = unpacked(&octets);
            let _ = unpacked(&[b"\0\0\0\0\xff\0\0\0LZFu\0\0\0\0".as_slice(), &octets].concat());
        }
    }
}
