//! Owns the returned header of the mail that a report is about.

use std::fmt;

use serde::{Serialize, Serializer};

use super::scan;
use crate::mail::address::Address;
use crate::mail::outline::{Leaf, Outline};
use crate::mail::text::cut;

/// Bytes of a returned mail that are read: enough for any header that Postern writes.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// The number of lines of a returned header that are read.
const LINES_MAX: usize = 2_000;
/// The upper bound of kept addresses that may contain a token.
const REPLY_ADDRESSES_MAX: usize = 16;
/// The upper bound of a Message-ID: longer than a line may be (RFC 5322 section 2.1.1) is invalid.
const MESSAGE_ID_BYTES_MAX: usize = 998;

/// The mail that a report is about, as far as the report describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OriginalMail {
    /// The Message-ID, without angle brackets.
    pub message_id: Option<String>,
    /// The recipients, from the returned header.
    pub recipients: Vec<Address>,
    /// The subject, as it stands in the header.
    pub subject: Option<String>,
    /// The addresses to which a reply or a bounce would go: one of them may contain a reply token. They are
    /// not verified. The order is `Reply-To`, `Return-Path`, `From` and similar fields.
    pub reply_addresses: Vec<ReplyAddress>,
    /// `Original-Envelope-Id` (RFC 3464 section 2.2.1).
    pub envelope_id: Option<String>,
}

/// An address that may contain a reply token. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplyAddress(String);

impl ReplyAddress {
    /// The address, which may contain a secret.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ReplyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyAddress(…)")
    }
}

impl Serialize for ReplyAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("…")
    }
}

impl OriginalMail {
    /// Reads the returned header: an attached mail or header, else one in the text after the words, else
    /// the values in the report's own header.
    pub(super) fn of(mail: &Outline<'_>) -> Self {
        let mut original = Self::default();
        for part in mail.leaves() {
            original.take_part(part);
        }
        if original.message_id.is_none() {
            original.message_id = mail
                .field("In-Reply-To")
                .or_else(|| {
                    mail.field("References")
                        .and_then(|ids| ids.split_whitespace().last())
                })
                .and_then(message_id);
        }
        original
    }

    fn take_part(&mut self, part: &Leaf<'_>) {
        match part.media {
            "message/rfc822"
            | "message/global"
            | "text/rfc822-headers"
            | "message/rfc822-headers"
            | "message/global-headers"
            | "text/rfc822"
            | "message/partial" => self.take_text(&part.text),
            "text/plain" | "text/html" | "" => {
                if let (_, Some(header)) = split(&part.text) {
                    self.take_text(header);
                }
            }
            _ => {}
        }
    }

    fn take_text(&mut self, text: &str) {
        let mut name = "";
        let mut value = String::new();
        for line in cut(text, HEADER_BYTES_MAX).lines().take(LINES_MAX) {
            if line.trim().is_empty() {
                if name.is_empty() {
                    continue;
                }
                break;
            }
            if line.starts_with([' ', '\t']) && field_line(line.trim_start()).is_none() {
                value.push_str(line);
                continue;
            }
            self.take(name, value.trim());
            value.clear();
            name = "";
            if let Some((next, rest)) = field_line(line.trim_start()) {
                name = next;
                value.push_str(rest);
            }
        }
        self.take(name, value.trim());
    }

    fn take(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        match name.to_ascii_lowercase().as_str() {
            "message-id" if self.message_id.is_none() => self.message_id = message_id(value),
            "subject" if self.subject.is_none() => self.subject = super::tidy(value, 998),
            "to"
            | "cc"
            | "x-envelope-to"
            | "envelope-to"
            | "x-original-to"
            | "delivered-to"
            | "x-hmxmroriginalrecipient"
            | "x-rcpt-to" => self.take_recipients(value),
            "received" => {
                if let Some((_, recipient)) = value.split_once(" for ") {
                    let recipient = recipient.split(';').next().unwrap_or_default();
                    self.take_recipients(recipient);
                }
            }
            "reply-to" => self.take_reply(value, true),
            "return-path" | "from" | "sender" | "envelope-from" | "x-envelope-from"
            | "errors-to" => {
                self.take_reply(value, false);
            }
            _ => {}
        }
    }

    fn take_recipients(&mut self, value: &str) {
        for found in scan::addresses(cut(value, 8_192)) {
            if self.recipients.len() >= super::RECIPIENTS_MAX {
                return;
            }
            if !self.recipients.contains(&found.address) {
                self.recipients.push(found.address);
            }
        }
    }

    /// Keeps addresses as text, because an old token is longer than a local part may be.
    fn take_reply(&mut self, value: &str, first: bool) {
        let separators =
            |c: char| c.is_whitespace() || matches!(c, '<' | '>' | ',' | '"' | ';' | '(' | ')');
        for word in cut(value, 2_048).split(separators) {
            let word = word.trim_start_matches("mailto:");
            let halves = word.split_once('@');
            if !halves.is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty()) {
                continue;
            }
            let known = self
                .reply_addresses
                .iter()
                .position(|known| known.0 == word);
            let address = match known {
                Some(_) if !first => continue,
                Some(at) => self.reply_addresses.remove(at),
                None if self.reply_addresses.len() >= REPLY_ADDRESSES_MAX => continue,
                None => ReplyAddress(word.to_owned()),
            };
            let at = if first { 0 } else { self.reply_addresses.len() };
            self.reply_addresses.insert(at, address);
        }
    }
}

/// The first Message-ID in a value, without its brackets.
fn message_id(value: &str) -> Option<String> {
    let id = match value.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or_default(),
        None => value.split_whitespace().next().unwrap_or_default(),
    };
    let id: String = id
        .chars()
        .filter(|c| !c.is_whitespace() && !c.is_control())
        .collect();
    (!id.is_empty() && id.len() <= MESSAGE_ID_BYTES_MAX).then_some(id)
}

/// The name and value of a line `Name: value` whose name is valid for a header field (RFC 5322 section
/// 2.2).
pub(super) fn field_line(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (!name.is_empty() && name.len() <= 64 && name.bytes().all(fits)).then_some((name, value))
}

/// Splits a text into the words for people and the returned mail after them, if there is one. The returned
/// mail begins at the first run of lines that form a mail header.
pub(super) fn split(text: &str) -> (&str, Option<&str>) {
    let mut at = 0;
    // The start of the blank lines, rules and announcements just above.
    let mut break_at = Some(0);
    for line in text.split_inclusive('\n').take(LINES_MAX) {
        let start = at;
        at += line.len();
        let bare = line.trim();
        if bare.is_empty() || is_rule(bare) || announces(bare) {
            break_at = break_at.or(Some(start));
            continue;
        }
        if let Some(end) = break_at
            && begins_header(&text[start..])
        {
            return (&text[..end], Some(&text[start..]));
        }
        break_at = None;
    }
    // An announcement without a following mail is not part of the words either.
    (
        &text[..break_at.unwrap_or(text.len()).min(text.len())],
        None,
    )
}

/// True for a line of dashes or similar characters, with or without words in it.
fn is_rule(line: &str) -> bool {
    let marks = |c: char| matches!(c, '-' | '=' | '*' | '_' | '+');
    line.chars().take(3).all(marks) && line.chars().count() >= 3
}

/// True for words that announce the returned mail.
fn announces(line: &str) -> bool {
    const WORDS: &[&str] = &[
        "original message",
        "returned message",
        "copy of the message",
        "unsent message",
        "message headers",
        "message header",
        "original mail",
        "message follows",
        "headers follow",
        "original-message",
        "non-delivered",
        "undelivered message",
        "message contents",
        "メッセージ",
    ];
    let line = line.to_lowercase();
    WORDS.iter().any(|words| line.contains(words))
}

/// True if at least two of the next lines are transport fields. A summary for people (`Subject:`, `To:`,
/// `Sent:`) has none.
fn begins_header(text: &str) -> bool {
    const TRANSPORT: &[&str] = &[
        "received",
        "return-path",
        "message-id",
        "mime-version",
        "content-type",
        "x-mailer",
        "user-agent",
        "dkim-signature",
        "content-transfer-encoding",
        "x-originating-ip",
        "reply-to",
        "x-received",
        "authentication-results",
        "date",
        "from",
        "to",
        "subject",
        "sender",
        "x-envelope-from",
        "x-yahoo-newman-property",
    ];
    let mut known = 0;
    let mut strong = 0;
    for (index, line) in text.lines().take(40).enumerate() {
        if line.trim().is_empty() {
            break;
        }
        let folded = line.starts_with([' ', '\t']);
        let Some((name, _)) = field_line(line) else {
            if folded && index > 0 {
                continue;
            }
            break;
        };
        let name = name.to_ascii_lowercase();
        if let Some(rank) = TRANSPORT.iter().position(|t| *t == name) {
            known += 1;
            strong += usize::from(rank < 13);
        }
    }
    known >= 2 && strong >= 1 || known >= 3
}
