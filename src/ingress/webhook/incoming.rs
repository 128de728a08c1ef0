//! Owns the decoded content of a request: mails with their envelopes, and other requests of a provider.
//!
//! Does not resolve recipients.

use bytes::Bytes;
use mail_parser::decoders::charsets::map::charset_decoder;
use serde::{Deserialize, Serialize};

use super::error::Malformed;
use super::json::Json;
use crate::base64;
use crate::mail::envelope::{ProviderCheck, ProviderVerdict};

/// The number of mails in one request. Mandrill batches a thousand.
pub const MAILS_MAX: usize = 1000;
/// The number of recipients of one mail: the limit of the store.
pub const RECIPIENTS_MAX: usize = crate::store::RECIPIENTS_MAX;
/// The number of items of a batch whose errors are listed.
const REASONS_MAX: usize = 20;
/// The number of characters of a provider's id that are kept.
const ID_CHARS_MAX: usize = 128;

/// The content of an authentic request.
#[derive(Debug)]
pub enum Decoded {
    /// Mails; at most [`MAILS_MAX`].
    Mails(Vec<IncomingMail>),
    /// The valid mails of a batch, at most [`MAILS_MAX`], and the malformed items.
    Partial(Vec<IncomingMail>, Vec<UnreadableItem>),
    /// No mail: a ping, a test, or another event, which the text describes.
    Ignored(&'static str),
    /// The confirmation of a subscription by a `GET` of this URL, with its host checked.
    Confirm(String),
    /// A mail that the provider stores, or mails whose files it stores, to be fetched by name; and the
    /// malformed items of their batch.
    Deferred(DeferredMail, Vec<UnreadableItem>),
    /// A mail in a bucket.
    InBucket(BucketMail),
    /// A mail that is not in this request, and that cannot be fetched.
    Unreachable(&'static str),
}

impl Decoded {
    /// The content of a batch. `read` decodes each of `items` as a mail or as another event (`None`), or
    /// fails; `ignored` describes a batch without mail.
    pub(super) fn batch(
        items: &[Json],
        read: impl Fn(&Json) -> Result<Option<IncomingMail>, Malformed>,
        ignored: &'static str,
    ) -> Result<Self, Malformed> {
        let (mut mails, mut unreadable) = (Vec::new(), Vec::new());
        for (at, item) in items.iter().enumerate() {
            match read(item) {
                Ok(Some(_)) if mails.len() >= MAILS_MAX => {
                    return Err(Malformed::new(format!("more than {MAILS_MAX} mails")));
                }
                Ok(mail) => mails.extend(mail),
                Err(reason) if items.len() == 1 => return Err(reason),
                Err(reason) => unreadable.push(UnreadableItem {
                    number: at + 1,
                    reason,
                    json: item.to_text(),
                }),
            }
        }
        match (mails.is_empty(), unreadable.is_empty()) {
            (true, true) => Ok(Self::Ignored(ignored)),
            (true, false) => Err(UnreadableItem::summary(&unreadable)),
            (false, true) => Ok(Self::Mails(mails)),
            (false, false) => Ok(Self::Partial(mails, unreadable)),
        }
    }
}

/// An item of a batch that is malformed.
#[derive(Debug)]
pub struct UnreadableItem {
    /// The number of the item in its batch, from 1.
    pub number: usize,
    /// The error of the item.
    pub reason: Malformed,
    /// The text of the item, in JSON.
    pub json: String,
}

impl UnreadableItem {
    /// The errors of these items in one text.
    pub(super) fn summary(items: &[Self]) -> Malformed {
        let reasons = items.iter().take(REASONS_MAX);
        let reasons = reasons.map(|item| format!("{}: {}", item.number, item.reason));
        let reasons = reasons.collect::<Vec<_>>().join(", ");
        Malformed::new(format!("{} cannot be read: {reasons}", items.len()))
    }
}

/// A mail that a provider stores and only announces. Its JSON is stored on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeferredMail {
    /// The provider's id of the mail: letters, digits, `-` and `_`.
    pub id: String,
    /// The recipients, as the provider reports them.
    pub recipients: Recipients,
    /// The sender of the mail.
    pub sender: Option<String>,
    /// The body of the request that contained the mail without its files, if it did; it has all other data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// A mail that a provider has put into a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketMail {
    /// The name of the bucket from the request; it may be foreign.
    pub bucket: String,
    /// The name of the object in the bucket.
    pub key: String,
    /// The mail without its octets.
    pub mail: IncomingMail,
}

/// One mail in a provider's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingMail {
    /// The provider's id of the mail, for the log; may be empty.
    pub id: String,
    /// The unparsed reverse-path: empty is the null sender, `None` is unknown.
    pub sender: Option<String>,
    /// The recipients of the mail.
    pub recipients: Recipients,
    /// Octets of the mail, as the provider received them or rebuilt from their parts.
    pub bytes: Bytes,
    /// The results of the provider's checks.
    pub results: ProviderVerdict,
}

/// The recipients of a mail as unparsed text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipients {
    /// The forward-paths of the envelope.
    Envelope(Vec<String>),
    /// Addresses in fields that the sender wrote, if there is no envelope. Foreign ones are normal.
    Header(Vec<String>),
}

impl Recipients {
    /// The addresses.
    pub fn addresses(&self) -> &[String] {
        match self {
            Self::Envelope(addresses) | Self::Header(addresses) => addresses,
        }
    }
}

/// A provider's id of a mail, in a form that is safe for the log.
pub(super) fn loggable_id(id: &str) -> String {
    let shown = id.chars().filter(|c| !c.is_control() && !c.is_whitespace());
    shown.take(ID_CHARS_MAX).collect()
}

/// The results of a provider's checks, while they are collected.
#[derive(Debug)]
pub(super) struct ProviderResults(ProviderVerdict);

impl ProviderResults {
    pub(super) fn of(provider: &str) -> Self {
        Self(ProviderVerdict {
            by: provider.to_owned(),
            checks: Vec::new(),
        })
    }

    /// Adds a result, if there is one.
    pub(super) fn add(&mut self, name: &str, domain: Option<&str>, result: Option<&str>) {
        const WORD_CHARS_MAX: usize = 64;
        let word = |text: &str| -> String {
            let plain = text.chars().filter(|c| !c.is_control());
            plain
                .take(WORD_CHARS_MAX)
                .collect::<String>()
                .trim()
                .to_ascii_lowercase()
        };
        let Some(result) = result.map(word).filter(|word| !word.is_empty()) else {
            return;
        };
        if self.0.checks.len() < ProviderVerdict::CHECKS_MAX {
            self.0.checks.push(ProviderCheck {
                name: name.to_owned(),
                domain: domain.map(word),
                result,
            });
        }
    }

    pub(super) fn into_verdict(self) -> ProviderVerdict {
        self.0
    }
}

/// Decodes base64 that may contain line ends. `name` is the name of the field.
pub(super) fn decode_base64(text: &str, name: &str) -> Result<Vec<u8>, Malformed> {
    base64::decode_lines(text).ok_or_else(|| Malformed::field(name, "not base64"))
}

/// Decodes text in a charset that a provider names, perhaps wrongly: UTF-8 if the octets are valid, and
/// windows-1252, which can decode everything, as the last resort.
pub(super) fn decode_charset(bytes: &[u8], charset: Option<&str>) -> String {
    if let Ok(text) = std::str::from_utf8(bytes)
        && (text.is_ascii() || charset.is_none_or(|c| c.eq_ignore_ascii_case("utf-8")))
        && !bytes.contains(&0x1b)
    {
        return text.to_owned();
    }
    let label = charset.filter(|c| !c.eq_ignore_ascii_case("us-ascii"));
    let decoder = label.and_then(|label| charset_decoder(label.as_bytes()));
    if let Some(decoder) = decoder.filter(|_| !is_utf8(label)) {
        return decoder(bytes);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => match charset_decoder(b"windows-1252") {
            Some(decoder) => decoder(bytes),
            None => String::from_utf8_lossy(bytes).into_owned(),
        },
    }
}

fn is_utf8(label: Option<&str>) -> bool {
    label.is_some_and(|l| l.eq_ignore_ascii_case("utf-8") || l.eq_ignore_ascii_case("utf8"))
}

/// The addresses of a comma-separated list: the text in `<>` of each element that has one.
pub(super) fn parse_addresses(text: &str) -> Vec<String> {
    let mut list = Vec::new();
    let (mut quoted, mut from) = (false, 0);
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                list.extend(bare_address(&text[from..at]));
                from = at + 1;
            }
            _ => {}
        }
        if list.len() > RECIPIENTS_MAX {
            return list;
        }
    }
    list.extend(bare_address(&text[from..]));
    list
}

/// The reverse-path in a provider's text: the null sender is empty; `None` if there is none.
pub(super) fn reverse_path(text: &str) -> Option<String> {
    match text.trim() {
        "" | "<>" => Some(String::new()),
        text => bare_address(text),
    }
}

/// The text in the last `<>`, or the whole text; `None` if that is empty.
pub(super) fn bare_address(text: &str) -> Option<String> {
    let inner = match (text.rfind('<'), text.rfind('>')) {
        (Some(open), Some(close)) if open < close => &text[open + 1..close],
        _ => text,
    };
    Some(inner.trim().to_owned()).filter(|inner| !inner.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_cut_out_of_lists() {
        let list = |text| parse_addresses(text).join("|");
        assert_eq!(list("a@x.example"), "a@x.example");
        assert_eq!(
            list(" a@x.example ,, b@x.example,"),
            "a@x.example|b@x.example"
        );
        assert_eq!(
            list("\"A, B\" <a@x.example>, <b@x.example>"),
            "a@x.example|b@x.example"
        );
        assert_eq!(list("\"a,\\\"b\"@x.example"), "\"a,\\\"b\"@x.example");
        assert_eq!(list("<>"), "");
        assert_eq!(
            parse_addresses(&"a,".repeat(5000)).len(),
            RECIPIENTS_MAX + 1
        );
    }

    #[test]
    fn a_wrong_charset_costs_no_mail() {
        for (bytes, charset, text) in [
            ("é".as_bytes(), Some("UTF-8"), "é"),
            ("é".as_bytes(), None, "é"),
            (b"\xe9", Some("utf-8"), "é"),
            (b"\xe9", Some("us-ascii"), "é"),
            (b"\xe9", Some("nonsense"), "é"),
            (b"\xe9", Some("iso-8859-1"), "é"),
            (b"\x82", Some("cp850"), "é"),
            (b"\x1b$BF|K\\\x1b(B", Some("iso-2022-jp"), "日本"),
            ("é".as_bytes(), Some("us-ascii"), "é"),
        ] {
            assert_eq!(decode_charset(bytes, charset), text, "{charset:?}");
        }
    }
}
