//! Owns what an adapter makes of a request: mails with their envelopes, and what else a provider may
//! want.
//!
//! Does not know which recipients are ours.

use bytes::Bytes;
use mail_parser::decoders::charsets::map::charset_decoder;
use serde::{Deserialize, Serialize};

use super::error::Malformed;
use super::json::Json;
use crate::base64;
use crate::mail::envelope::{ProviderCheck, ProviderVerdict};

/// Mails one request may bring. Mandrill batches a thousand.
pub const MAILS_MAX: usize = 1000;
/// Recipients one mail may have: as many as the store takes.
pub const RECIPIENTS_MAX: usize = crate::store::RECIPIENTS_MAX;
/// Items of a batch whose fault is named.
const REASONS_MAX: usize = 20;
/// Characters of a provider's id that are kept.
const ID_CHARS_MAX: usize = 128;

/// The content of an authentic request.
#[derive(Debug)]
pub enum Decoded {
    /// Mails. At most [`MAILS_MAX`].
    Mails(Vec<IncomingMail>),
    /// The mails of a batch that can be read, at most [`MAILS_MAX`], and the items that cannot.
    Partial(Vec<IncomingMail>, Vec<UnreadableItem>),
    /// Nothing to keep: a ping, a test, or news of something else, as the text says.
    Ignored(&'static str),
    /// The confirmation of a subscription, by a `GET` of this URL. Its host was checked.
    Confirm(String),
    /// A mail that the provider keeps, or whose files it keeps, to be fetched by their names there.
    Deferred(DeferredMail),
    /// A mail in a bucket.
    InBucket(BucketMail),
    /// A mail that is not in this request, and that there is no way to fetch.
    Unreachable(&'static str),
}

impl Decoded {
    /// The content of a batch. Each of `items` is read by `read` as a mail or as news of something else
    /// (`None`), or cannot be read; `ignored` describes a batch without mail.
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

/// An item of a batch that can never be read.
#[derive(Debug)]
pub struct UnreadableItem {
    /// Number of the item in its batch, from 1.
    pub number: usize,
    /// Fault of the item.
    pub reason: Malformed,
    /// Text of the item, in JSON.
    pub json: String,
}

impl UnreadableItem {
    /// The faults of these items in one text.
    pub(super) fn summary(items: &[Self]) -> Malformed {
        let reasons = items.iter().take(REASONS_MAX);
        let reasons = reasons.map(|item| format!("{}: {}", item.number, item.reason));
        let reasons = reasons.collect::<Vec<_>>().join(", ");
        Malformed::new(format!("{} cannot be read: {reasons}", items.len()))
    }
}

/// A mail that a provider keeps and only announces. The JSON of it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeferredMail {
    /// Name of the mail at the provider: letters, digits, `-` and `_`.
    pub id: String,
    /// Recipients of the mail, as the provider tells them.
    pub recipients: Recipients,
    /// Sender of the mail.
    pub sender: Option<String>,
    /// Body of the request that brought the mail without its files, where it did; it tells all the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// A mail that a provider has put into a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketMail {
    /// Name of the bucket as the provider tells it: whether it is one of ours is not known.
    pub bucket: String,
    /// Name of the object in the bucket.
    pub key: String,
    /// The mail without its octets.
    pub mail: IncomingMail,
}

/// One mail as a provider hands it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingMail {
    /// Name of the mail at the provider, for the log; may be empty.
    pub id: String,
    /// Reverse-path as it is written: empty is the null sender, `None` is not told.
    pub sender: Option<String>,
    /// Recipients of the mail.
    pub recipients: Recipients,
    /// Octets of the mail, as the provider received them or put together again from their parts.
    pub bytes: Bytes,
    /// Results of the provider's checks.
    pub results: ProviderVerdict,
}

/// Recipients of a mail as text: which of them are ours, and whether they are addresses at all, is found
/// out later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipients {
    /// The forward-paths of the envelope.
    Envelope(Vec<String>),
    /// Addresses in fields that the sender wrote, where there is no envelope. Those that are not ours
    /// are nobody's loss.
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

/// A provider's name for a mail, cut to a form that is fit for the log.
pub(super) fn loggable_id(id: &str) -> String {
    let shown = id.chars().filter(|c| !c.is_control() && !c.is_whitespace());
    shown.take(ID_CHARS_MAX).collect()
}

/// The results of a provider's checks while they are collected.
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

/// The octets of base64 that a provider may have broken into lines. `name` is that of the field.
pub(super) fn decode_base64(text: &str, name: &str) -> Result<Vec<u8>, Malformed> {
    base64::decode_lines(text).ok_or_else(|| Malformed::field(name, "not base64"))
}

/// The text in a charset that a provider names, perhaps wrongly: UTF-8 where the octets are that, and
/// windows-1252, in which everything can be read, where nothing else fits.
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

/// The addresses of a list with commas: the text in `<>` of each element that has one.
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

/// The reverse-path in a provider's text: the null sender is empty. `None` if there is none.
pub(super) fn reverse_path(text: &str) -> Option<String> {
    match text.trim() {
        "" | "<>" => Some(String::new()),
        text => bare_address(text),
    }
}

/// The text in the last `<>`, or all of the text; `None` if that is empty.
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
