//! Owns what an adapter makes of a request: mails with their envelopes, and what else a provider may
//! want.
//!
//! Does not know which recipients are ours.

use std::fmt;

use bytes::Bytes;
use mail_parser::decoders::charsets::map::charset_decoder;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::mail::envelope::{ProviderCheck, ProviderVerdict};

/// Mails one request may bring. Mandrill batches a thousand.
pub const MAILS_MAX: usize = 1000;
/// Recipients one mail may have: as many as the store takes.
pub const RECIPIENTS_MAX: usize = crate::store::RECIPIENTS_MAX;
/// Reasons that are told why mails of a batch cannot be read.
const REASONS_MAX: usize = 20;
/// Letters of a provider's name for a mail that are kept.
const ID_CHARS_MAX: usize = 128;

/// What a believed request is about.
#[derive(Debug)]
pub enum Decoded {
    /// Mails. At most [`MAILS_MAX`].
    Mails(Vec<IncomingMail>),
    /// Mails of a batch, and why the rest of it cannot be read. At most [`MAILS_MAX`].
    Partial(Vec<IncomingMail>, Malformed),
    /// Nothing to keep: a ping, a test, news of something else. The word is for the log.
    Ignored(&'static str),
    /// A topic asks whether we want its mail: a `GET` of this URL says yes. Its host was checked.
    Confirm(String),
    /// A mail lies at the provider's, or its files do, to be fetched by their names there.
    Deferred(DeferredMail),
    /// A mail lies in a bucket.
    InBucket(BucketMail),
    /// There is a mail, but not in this request, and there is no way to get it.
    Unreachable(&'static str),
}

impl Decoded {
    /// What a batch comes to. Each of `all` is a mail, news of something else (`None`), or cannot be
    /// read; `nothing` is the word for a batch without mail.
    pub(super) fn batch(
        all: impl ExactSizeIterator<Item = Result<Option<IncomingMail>, Malformed>>,
        nothing: &'static str,
    ) -> Result<Self, Malformed> {
        let count = all.len();
        let (mut mails, mut reasons, mut broken) = (Vec::new(), Vec::new(), 0usize);
        for (at, one) in all.enumerate() {
            match one {
                Ok(Some(_)) if mails.len() >= MAILS_MAX => {
                    return Err(Malformed::new(format!("more than {MAILS_MAX} mails")));
                }
                Ok(mail) => mails.extend(mail),
                Err(why) if count == 1 => return Err(why),
                Err(why) => {
                    broken += 1;
                    if reasons.len() < REASONS_MAX {
                        reasons.push(format!("{}: {why}", at + 1));
                    }
                }
            }
        }
        let reasons = reasons.join(", ");
        let why = Malformed::new(format!("{broken} of {count} cannot be read: {reasons}"));
        match (mails.is_empty(), broken) {
            (true, 0) => Ok(Self::Ignored(nothing)),
            (true, _) => Err(why),
            (false, 0) => Ok(Self::Mails(mails)),
            (false, _) => Ok(Self::Partial(mails, why)),
        }
    }
}

/// A mail that a provider keeps and only tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeferredMail {
    /// Its name at the provider's.
    pub id: String,
    /// Whom it is for, as the provider tells.
    pub recipients: Recipients,
    /// Who sent it.
    pub sender: Option<String>,
    /// The request that brought the mail without its files, where it did; it tells all the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// Where a mail lies that a provider has put into a bucket, and what it tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketMail {
    /// The bucket's name, as the provider tells it: whether it is ours is not known.
    pub bucket: String,
    /// The object's name in it.
    pub key: String,
    /// The mail without its bytes.
    pub mail: IncomingMail,
}

/// One mail as a provider hands it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingMail {
    /// The provider's name for it, for the log. May be empty.
    pub id: String,
    /// The reverse-path as it stands: empty is the null sender, `None` is not told.
    pub sender: Option<String>,
    /// Whom it is for.
    pub recipients: Recipients,
    /// The mail, as it was received by the provider or put together again from its parts.
    pub bytes: Bytes,
    /// What the provider says of it.
    pub results: ProviderVerdict,
}

/// Addresses a mail is for, as text: which of them are ours, and whether they are addresses at all,
/// is found out later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipients {
    /// The forward-paths of the envelope.
    Envelope(Vec<String>),
    /// There is no envelope: these stand in fields the sender wrote. Those that are not ours are
    /// nobody's loss.
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

/// A provider's name for a mail in a form that a log can bear.
pub(super) fn loggable_id(id: &str) -> String {
    let shown = id.chars().filter(|c| !c.is_control() && !c.is_whitespace());
    shown.take(ID_CHARS_MAX).collect()
}

/// Gathers a provider's results.
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

    pub(super) fn into_told(self) -> ProviderVerdict {
        self.0
    }
}

/// Why a believed request cannot be read. It names the place, never the content.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    pub(super) fn field(name: &str, what: impl fmt::Display) -> Self {
        // A name may come from the request where it is an address book's: keep lines short.
        let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
        Self(format!("{name}: {what}"))
    }
}

/// Base64 that a provider may have broken into lines.
pub(super) fn decode_base64(text: &str, name: &str) -> Result<Vec<u8>, Malformed> {
    let whole: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    super::proof::decode_base64(&whole).ok_or_else(|| Malformed::field(name, "not base64"))
}

/// Text in a charset a provider names, which it may be wrong about: UTF-8 where it is that, and
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

/// The addresses of a comma list, or of one field: what stands in `<>` where something does.
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

/// A reverse-path as a provider writes it: the null sender is empty. `None` if nothing is told.
pub(super) fn reverse_path(text: &str) -> Option<String> {
    match text.trim() {
        "" | "<>" => Some(String::new()),
        text => bare_address(text),
    }
}

/// What stands in the last `<>`, or all of it; `None` if that is empty.
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

    #[test]
    fn base64_may_have_lines() {
        assert_eq!(decode_base64("aGk\n=\r\n", "x").unwrap(), b"hi");
        assert_eq!(decode_base64("aGk", "x").unwrap(), b"hi");
        assert_eq!(
            decode_base64("a*", "x").unwrap_err().to_string(),
            "x: not base64"
        );
    }
}
