//! Owns tag lists (RFC 6376 section 3.2): `a=b; c=d`.
//!
//! Does not interpret tags.

/// The number of tags, which is more than any RFC defines.
const TAGS_MAX: usize = 64;

/// The tags of one list, in order.
#[derive(Debug)]
pub(super) struct TagList<'a>(Vec<(&'a str, &'a str)>);

impl<'a> TagList<'a> {
    /// Parses a list; `None` if it breaks the grammar, has a tag twice (programs would interpret it
    /// differently), or has more than [`TAGS_MAX`].
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut tags: Vec<(&str, &str)> = Vec::new();
        let mut pieces = text.split(';').peekable();
        while let Some(piece) = pieces.next() {
            if piece.trim_matches(FWS).is_empty() && pieces.peek().is_none() {
                break;
            }
            let (name, value) = piece.split_once('=')?;
            let name = name.trim_matches(FWS);
            let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let is_double = tags.iter().any(|(other, _)| *other == name);
            if !is_name || is_double || tags.len() == TAGS_MAX {
                return None;
            }
            tags.push((name, value.trim_matches(FWS)));
        }
        Some(Self(tags))
    }

    /// The value of a tag, without space around it.
    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        let mut tags = self.0.iter();
        tags.find(|(other, _)| *other == name).map(|tag| tag.1)
    }

    /// The name of the first tag.
    pub(super) fn first(&self) -> Option<&'a str> {
        self.0.first().map(|tag| tag.0)
    }

    /// The items of a colon-separated value, without space around them.
    pub(super) fn items(&self, name: &str) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        let value = self.value(name)?;
        Some(value.split(':').map(|item| item.trim_matches(FWS)))
    }
}

/// White space between the parts of a list, including folds.
pub(super) const FWS: [char; 4] = [' ', '\t', '\r', '\n'];

/// Decodes a base64 value, ignoring white space.
pub(super) fn base64(value: &str) -> Option<Vec<u8>> {
    let text: String = value.chars().filter(|c| !FWS.contains(c)).collect();
    data_encoding::BASE64.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_with_their_folds() {
        let tags =
            TagList::parse(" v=1;\r\n\ta = rsa-sha256 ; b=aG\r\n\tk= ;h=from : to;").unwrap();
        assert_eq!(tags.value("v"), Some("1"));
        assert_eq!(tags.value("a"), Some("rsa-sha256"));
        assert_eq!(base64(tags.value("b").unwrap()).unwrap(), b"hi");
        assert_eq!(tags.items("h").unwrap().collect::<Vec<_>>(), ["from", "to"]);
        assert_eq!(tags.first(), Some("v"));
        assert_eq!(tags.value("x"), None);
    }

    #[test]
    fn ambiguous_tag_lists_are_refused() {
        for text in ["a=1; a=2", "a", "a=1;;b=2", "=1", "1a=2", "a b=1", "é=1"] {
            assert!(TagList::parse(text).is_none(), "{text}");
        }
        let many: String = (0..=TAGS_MAX).map(|n| format!("a{n}=1;")).collect();
        assert!(TagList::parse(&many).is_none());
        assert!(TagList::parse("").unwrap().first().is_none());
    }
}
