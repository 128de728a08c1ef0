//! Owns the tokens of HTML: tags with the attributes we know, text, character references.
//!
//! Builds nothing.

use std::sync::LazyLock;

use super::tree::TreeBuilder;

/// Attributes of one element.
const ATTRIBUTES_MAX: usize = 24;

/// Bytes of one attribute value (an inline image may be longer than any other).
const VALUE_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a `data:` image.
const DATA_BYTES_MAX: usize = 96 * 1024;

/// The tokenizer (HTML standard 13.2.5, without the states that mail never needs).
pub(super) struct Tokenizer<'a> {
    html: &'a str,
    at: usize,
}

impl<'a> Tokenizer<'a> {
    pub(super) fn new(html: &'a str) -> Self {
        Self { html, at: 0 }
    }

    /// Takes one token; false at the end.
    pub(super) fn step(&mut self, builder: &mut TreeBuilder) -> bool {
        let rest = &self.html[self.at..];
        if rest.is_empty() {
            return false;
        }
        let Some(open) = rest.find('<') else {
            builder.text(rest);
            self.at = self.html.len();
            return true;
        };
        if open > 0 {
            builder.text(&rest[..open]);
            self.at += open;
            return true;
        }
        let after = rest.as_bytes().get(1).copied().unwrap_or(0);
        match after {
            b'a'..=b'z' | b'A'..=b'Z' => self.start_tag(builder),
            b'/' if rest.as_bytes().get(2).is_some_and(u8::is_ascii_alphabetic) => {
                self.end_tag(builder)
            }
            b'!' if rest.starts_with("<!--") => self.skip_to(4, "-->"),
            b'!' | b'?' | b'/' => self.skip_to(1, ">"),
            _ => {
                builder.text("<");
                self.at += 1;
            }
        }
        true
    }

    fn skip_to(&mut self, from: usize, end: &str) {
        let start = (self.at + from).min(self.html.len());
        self.at = self.html[start..]
            .find(end)
            .map_or(self.html.len(), |found| start + found + end.len());
    }

    fn name(&mut self) -> &'static str {
        let name = self.take_until(|c| c.is_ascii_whitespace() || matches!(c, b'/' | b'>'));
        known(name, &TAGS)
    }

    fn take_until(&mut self, stop: impl Fn(u8) -> bool) -> &'a str {
        let rest = &self.html[self.at..];
        let end = rest.bytes().position(stop).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn peek(&self) -> Option<u8> {
        self.html.as_bytes().get(self.at).copied()
    }

    fn start_tag(&mut self, builder: &mut TreeBuilder) {
        self.at += 1;
        let tag = self.name();
        let Some(attributes) = self.attributes() else {
            return;
        };
        builder.open(tag, attributes);
        if RAW.contains(&tag) {
            self.skip_raw(tag);
            builder.close(tag);
        }
    }

    fn end_tag(&mut self, builder: &mut TreeBuilder) {
        self.at += 2;
        let tag = self.name();
        if self.attributes().is_some() {
            builder.close(tag);
        }
    }

    /// Attributes up to `>`; `None` when the tag never ends.
    fn attributes(&mut self) -> Option<Vec<(&'static str, String)>> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        loop {
            self.take_until(|c| !(c.is_ascii_whitespace() || c == b'/'));
            if self.peek()? == b'>' {
                self.at += 1;
                return Some(found);
            }
            let start = self.at;
            // A leading "=" is part of the name (13.2.5.32).
            self.at += 1;
            while !self.html.is_char_boundary(self.at) {
                self.at += 1;
            }
            self.take_until(|c| c.is_ascii_whitespace() || matches!(c, b'/' | b'>' | b'='));
            let name = known(&self.html[start..self.at], &ATTRIBUTES);
            self.take_until(|c| !c.is_ascii_whitespace());
            let mut value = "";
            if self.peek() == Some(b'=') {
                self.at += 1;
                self.take_until(|c| !c.is_ascii_whitespace());
                value = self.value()?;
            }
            let fresh = !name.is_empty() && !found.iter().any(|(known, _)| *known == name);
            let max = if value.starts_with("data:") {
                DATA_BYTES_MAX
            } else {
                VALUE_BYTES_MAX
            };
            if fresh && found.len() < ATTRIBUTES_MAX && value.len() <= max {
                let mut decoded = String::with_capacity(value.len());
                decode(value, &mut decoded);
                found.push((name, decoded));
            }
        }
    }

    fn value(&mut self) -> Option<&'a str> {
        let quote = self.peek()?;
        if quote != b'"' && quote != b'\'' {
            return Some(self.take_until(|c| c.is_ascii_whitespace() || c == b'>'));
        }
        self.at += 1;
        let value = self.take_until(|c| c == quote);
        self.peek()?;
        self.at += 1;
        Some(value)
    }

    /// The content of `<script>` and its kin is no text: up to the end tag, or all that is left.
    fn skip_raw(&mut self, tag: &str) {
        let bytes = self.html.as_bytes();
        let mut at = self.at;
        while let Some(found) = self.html[at..].find("</") {
            let name = at + found + 2;
            let end = name + tag.len();
            if bytes
                .get(name..end)
                .is_some_and(|b| b.eq_ignore_ascii_case(tag.as_bytes()))
            {
                self.at = end;
                self.skip_to(0, ">");
                return;
            }
            at = name;
        }
        self.at = self.html.len();
    }
}

/// The static spelling of a name we know, else "".
fn known(name: &str, names: &[&'static str]) -> &'static str {
    if name.len() > 16 {
        return "";
    }
    names
        .iter()
        .find(|known| known.eq_ignore_ascii_case(name))
        .copied()
        .unwrap_or("")
}

/// Appends `raw` with its character references resolved.
pub(super) fn decode(raw: &str, out: &mut String) {
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let body = rest.as_bytes()[1..]
            .iter()
            .take(32)
            .position(|c| !(c.is_ascii_alphanumeric() || *c == b'#'))
            .unwrap_or_else(|| rest.len().min(33) - 1);
        let name = &rest[1..=body];
        let closed = rest.as_bytes().get(body + 1) == Some(&b';');
        match resolve(name, closed) {
            Some(c) => {
                out.push_str(&c);
                rest = &rest[body + 1 + usize::from(closed)..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
}

fn resolve(name: &str, closed: bool) -> Option<String> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return Some(windows_1252(code).to_string());
    }
    // Without the semicolon only the oldest names count (13.2.5.73).
    if name.is_empty()
        || !closed && !["nbsp", "amp", "lt", "gt", "quot", "copy", "reg"].contains(&name)
    {
        return None;
    }
    let token = format!("&{name};");
    let mut resolved = String::new();
    mail_parser::decoders::html::add_html_token(&mut resolved, token.as_bytes(), false);
    (resolved != token).then_some(resolved)
}

/// Numbers that mean windows-1252 by the standard's table (13.2.5.80).
fn windows_1252(code: u32) -> char {
    const TABLE: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    match code {
        0 => char::REPLACEMENT_CHARACTER,
        0x80..=0x9f => TABLE[(code - 0x80) as usize],
        _ => char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

/// Elements whose content is no markup.
const RAW: &[&str] = &[
    "script", "style", "title", "iframe", "noembed", "noframes", "xmp",
];

static TAGS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
        div span p br a b i u td tr table tbody font blockquote img li ul ol strong em hr html
        body head style title meta link script pre code h1 h2 h3 h4 h5 h6 th thead tfoot caption
        col colgroup abbr address article aside base bdi bdo big button center cite dd del
        details dfn dl dt embed fieldset figcaption figure footer form header iframe input ins
        kbd label legend main mark math menu nav noembed noframes noscript object option param q
        s samp section select small source strike sub summary sup svg template textarea tt var
        video audio wbr xmp area map signature
        ",
    )
});

static ATTRIBUTES: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
        class id style href src alt name type title width height align dir start colspan rowspan
        hidden cite data-emoji data-marker data-smartmail data-testid data-signature-widget lang
        ",
    )
});

/// The names of a list parted by spaces.
pub(super) fn words(list: &'static str) -> Vec<&'static str> {
    list.split_ascii_whitespace().collect()
}
