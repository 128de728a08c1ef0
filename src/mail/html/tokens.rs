//! Owns the conversion of html5gum's tokens to nodes: the known names, and the size bounds.
//!
//! Does not place nodes in the tree.

use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use html5gum::{Emitter, Error, State, Tokenizer};

use super::tree::{Attributes, TreeBuilder, words};

/// The number of attributes of one element that are kept.
const ATTRIBUTES_MAX: usize = 24;
/// Bytes of the longest known name of an element or an attribute.
const NAME_BYTES_MAX: usize = 24;
/// Bytes of one attribute value; an embedded image has its own bound.
const VALUE_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a `data:` image.
const DATA_BYTES_MAX: usize = 96 * 1024;

/// Feeds the tokens of `html` to `builder`. Any text is accepted.
pub(super) fn feed(html: &str, builder: &mut TreeBuilder) {
    let emitter = TreeEmitter {
        builder,
        text: Vec::new(),
        tag: CurrentTag::default(),
        raw_tag: "",
    };
    let Ok(()) = Tokenizer::new_with_emitter(html, emitter).finish();
}

struct TreeEmitter<'b> {
    builder: &'b mut TreeBuilder,
    /// The text since the last tag. A character may arrive in pieces.
    text: Vec<u8>,
    tag: CurrentTag,
    /// The open element whose content is neither markup nor text, such as `script`; empty if there is none.
    raw_tag: &'static str,
}

/// The tag that is being read.
#[derive(Default)]
struct CurrentTag {
    is_end: bool,
    name: BoundedBytes<NAME_BYTES_MAX>,
    attributes: Attributes,
    attribute: BoundedBytes<NAME_BYTES_MAX>,
    value: BoundedBytes<DATA_BYTES_MAX>,
}

/// A text of at most `MAX` bytes. A longer one counts as absent.
#[derive(Default)]
struct BoundedBytes<const MAX: usize> {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl<const MAX: usize> BoundedBytes<MAX> {
    fn clear(&mut self) {
        self.bytes.clear();
        self.is_cut = false;
    }

    fn push(&mut self, bytes: &[u8]) {
        self.is_cut |= self.bytes.len() + bytes.len() > MAX;
        if !self.is_cut {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The spelling in `names`, or the empty text for an unknown name.
    fn known_in(&self, names: &Names) -> &'static str {
        str::from_utf8(&self.bytes)
            .ok()
            .filter(|name| !self.is_cut && !name.is_empty())
            .and_then(|name| names.get(name).copied())
            .unwrap_or_default()
    }
}

impl CurrentTag {
    fn clear(&mut self, is_end: bool) {
        self.is_end = is_end;
        self.name.clear();
        self.attributes.clear();
        self.attribute.clear();
        self.value.clear();
    }

    /// Keeps the current attribute if its name is known and new, and its value within the bounds.
    fn end_attribute(&mut self) {
        let name = self.attribute.known_in(&ATTRIBUTES);
        let bytes_max = if self.value.bytes.starts_with(b"data:") {
            DATA_BYTES_MAX
        } else {
            VALUE_BYTES_MAX
        };
        let is_new = !self.attributes.iter().any(|(known, _)| *known == name);
        let fits = !self.value.is_cut && self.value.bytes.len() <= bytes_max;
        if !name.is_empty() && is_new && fits && self.attributes.len() < ATTRIBUTES_MAX {
            let value = String::from_utf8_lossy(&self.value.bytes).into_owned();
            self.attributes.push((name, value));
        }
        self.attribute.clear();
        self.value.clear();
    }
}

impl TreeEmitter<'_> {
    fn end_text(&mut self) {
        if !self.text.is_empty() {
            self.builder.text(&String::from_utf8_lossy(&self.text));
            self.text.clear();
        }
    }
}

impl Emitter for TreeEmitter<'_> {
    type Token = Infallible;

    fn set_last_start_tag(&mut self, _: Option<&[u8]>) {}

    fn emit_eof(&mut self) {
        self.end_text();
    }

    fn emit_error(&mut self, _: Error) {}

    fn should_emit_errors(&mut self) -> bool {
        false
    }

    fn pop_token(&mut self) -> Option<Infallible> {
        None
    }

    fn emit_string(&mut self, text: &[u8]) {
        if self.raw_tag.is_empty() {
            self.text.extend_from_slice(text);
        } else if self.raw_tag == "style" {
            self.builder.style(&String::from_utf8_lossy(text));
        }
    }

    fn init_start_tag(&mut self) {
        self.tag.clear(false);
    }

    fn init_end_tag(&mut self) {
        self.tag.clear(true);
    }

    fn init_comment(&mut self) {}

    fn emit_current_tag(&mut self) -> Option<State> {
        self.tag.end_attribute();
        self.end_text();
        let name = self.tag.name.known_in(&TAGS);
        if self.tag.is_end {
            self.raw_tag = "";
            self.builder.close(name);
            return None;
        }
        self.builder
            .open(name, std::mem::take(&mut self.tag.attributes));
        if !RAW_TAGS.contains(&name) {
            return None;
        }
        self.raw_tag = name;
        Some(State::RawText)
    }

    fn emit_current_comment(&mut self) {}

    fn emit_current_doctype(&mut self) {}

    fn set_self_closing(&mut self) {}

    fn set_force_quirks(&mut self) {}

    fn push_tag_name(&mut self, name: &[u8]) {
        self.tag.name.push(name);
    }

    fn push_comment(&mut self, _: &[u8]) {}

    fn push_doctype_name(&mut self, _: &[u8]) {}

    fn init_doctype(&mut self) {}

    fn init_attribute(&mut self) {
        self.tag.end_attribute();
    }

    fn push_attribute_name(&mut self, name: &[u8]) {
        self.tag.attribute.push(name);
    }

    fn push_attribute_value(&mut self, value: &[u8]) {
        self.tag.value.push(value);
    }

    fn set_doctype_public_identifier(&mut self, _: &[u8]) {}

    fn set_doctype_system_identifier(&mut self, _: &[u8]) {}

    fn push_doctype_public_identifier(&mut self, _: &[u8]) {}

    fn push_doctype_system_identifier(&mut self, _: &[u8]) {}

    fn current_is_appropriate_end_tag_token(&mut self) -> bool {
        self.tag.is_end && self.tag.name.known_in(&TAGS) == self.raw_tag
    }
}

/// Elements with content that is not markup.
const RAW_TAGS: &[&str] = &[
    "script", "style", "title", "iframe", "noembed", "noframes", "xmp",
];

/// Known names. Any text may be looked up, but none is added, so a plain hash is enough.
type Names = HashSet<&'static str, BuildHasherDefault<NameHasher>>;

/// The hash FNV-1a.
struct NameHasher(u64);

impl Default for NameHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

static TAGS: LazyLock<Names> = LazyLock::new(|| {
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

static ATTRIBUTES: LazyLock<Names> = LazyLock::new(|| {
    words(
        "
        class id style color href src alt name type title width height align dir start colspan rowspan
        hidden cite data-emoji data-marker data-smartmail data-testid data-signature-widget lang
        ",
    )
});
