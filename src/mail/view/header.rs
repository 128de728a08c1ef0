//! Owns the view of a mail's header: people, date, subject, references.
//!
//! Does not read the body, so it is cheap enough before the 250.

use std::collections::BTreeSet;

use mail_parser::parsers::MessageStream;
use mail_parser::{Addr, HeaderValue};
use memchr::memmem;

use super::is_clean;
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::mime::{FieldSpan, Flag, HeaderBlock, PartContent, parser_input, unfolded};

/// The number of addresses of one kind of field (`To`, `Cc`, …) in the view.
pub const ADDRESSES_MAX: usize = 200;
/// The number of Message-IDs of `References` in the view: the newest, which stand last.
pub const REFERENCES_MAX: usize = 100;
/// The length of a Message-ID, which stands on one line (RFC 5322 section 2.1.1); a longer one is invalid.
const MESSAGE_ID_BYTES_MAX: usize = 998;
/// The number of characters of a subject or a display name in the view.
const LINE_CHARS_MAX: usize = 1_000;

/// The header of a mail. Of a repeated field that may occur only once, the first counts; addresses are
/// collected from all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderView {
    /// The Message-ID without angle brackets, in its original case; `None` also if it has white space or
    /// controls.
    pub message_id: Option<String>,
    /// The Message-IDs of `In-Reply-To`, in order.
    pub in_reply_to: Vec<String>,
    /// The Message-IDs of `References`, newest last, at most [`REFERENCES_MAX`].
    pub references: Vec<String>,
    /// The addresses of every `From` field.
    pub from: Vec<HeaderAddress>,
    /// The number of `From` fields: RFC 5322 section 3.6 requires exactly one.
    pub from_fields: usize,
    /// The addresses of `Sender`.
    pub sender: Vec<HeaderAddress>,
    /// The addresses of `Reply-To`.
    pub reply_to: Vec<HeaderAddress>,
    /// The addresses of `To`.
    pub to: Vec<HeaderAddress>,
    /// The addresses of `Cc`.
    pub cc: Vec<HeaderAddress>,
    /// The decoded subject on one line, without controls; `None` if there is no such field.
    pub subject: Option<String>,
    /// The time in `Date`. The author chose it, so no logic may trust it.
    pub date: Option<Timestamp>,
    /// The number of `Received` fields.
    pub received_count: usize,
    /// The content of the body, from the header.
    pub content: PartContent,
    /// The bounds that this header exceeds.
    pub flags: BTreeSet<Flag>,
    fields: Vec<HeaderField>,
}

/// An address of a header field, with its display name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderAddress {
    /// The display name, decoded, without controls. It proves nothing.
    pub name: Option<String>,
    /// The address; `None` if the text is not an address.
    pub address: Option<Address>,
    /// The text of the address, unchanged except for controls.
    pub text: String,
}

/// A header field with its value on one line, not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField {
    /// The name in its original case.
    pub name: String,
    /// The value, unfolded, without space around it; bytes that are not UTF-8 are replaced.
    pub value: String,
}

impl HeaderView {
    /// Parses the header block at the start of `mail`; the rest is not read.
    pub fn parse(mail: &[u8]) -> Self {
        Self::of_block(mail, &HeaderBlock::of_mail(mail))
    }

    /// The value of the first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value.as_str())
    }

    /// The values of all fields of this name, in any case, in the order of the mail.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value.as_str())
    }

    /// All fields in the order of the mail.
    pub fn fields(&self) -> &[HeaderField] {
        &self.fields
    }

    /// The author's address: `None` unless there is one `From` field with one address.
    pub fn author(&self) -> Option<&Address> {
        match self.from.as_slice() {
            [only] if self.from_fields == 1 => only.address.as_ref(),
            _ => None,
        }
    }

    /// The addresses to which a mail may have been sent, for sources without an envelope: those of
    /// `Delivered-To`, `X-Original-To` and `Envelope-To`, then of `To` and `Cc`. The sender may have
    /// written any of them.
    pub fn recipients(&self) -> Vec<Address> {
        let written_by_hosts = ["Delivered-To", "X-Original-To", "Envelope-To"]
            .into_iter()
            .flat_map(|name| self.headers(name).take(ADDRESSES_MAX))
            .filter_map(|value| Address::parse(value.trim_matches(['<', '>'])).ok());
        let written_by_author = self.to.iter().chain(&self.cc);
        written_by_hosts
            .chain(written_by_author.filter_map(|to| to.address.clone()))
            .collect()
    }

    pub(super) fn of_block(mail: &[u8], block: &HeaderBlock) -> Self {
        let mut flags = block.flags.clone();
        let content = PartContent::read(mail, block, false, &mut flags);
        let charset = content.parameter("charset").map(str::to_owned);
        let mut reader = FieldReader {
            mail,
            block,
            charset,
            flags,
        };
        let mut references = reader.message_ids("References");
        references.drain(..references.len().saturating_sub(REFERENCES_MAX));
        let mut in_reply_to = reader.message_ids("In-Reply-To");
        in_reply_to.truncate(REFERENCES_MAX);
        Self {
            message_id: reader.message_ids("Message-ID").into_iter().next(),
            in_reply_to,
            references,
            from: reader.correspondents("From"),
            from_fields: reader.named("From").count(),
            sender: reader.correspondents("Sender"),
            reply_to: reader.correspondents("Reply-To"),
            to: reader.correspondents("To"),
            cc: reader.correspondents("Cc"),
            subject: reader.text("Subject"),
            date: reader.date(),
            received_count: reader.named("Received").count(),
            content,
            fields: reader.fields(),
            flags: reader.flags,
        }
    }
}

impl HeaderAddress {
    /// The address that the parser found in this field.
    fn of(addr: &Addr<'_>, field: &[u8]) -> Self {
        let text = cleaned(addr.address.as_deref().unwrap_or_default());
        Self {
            name: addr
                .name
                .as_deref()
                .map(cleaned)
                .filter(|name| !name.is_empty()),
            // A text with controls is not an address, even if it looks like one without them. The parser
            // removes backslashes and apparent comments within quotes, which could leave another person's
            // address.
            address: addr
                .address
                .as_deref()
                .filter(|text| {
                    !text.contains('"') || memmem::find(field, text.as_bytes()).is_some()
                })
                .and_then(|text| Address::parse(text).ok()),
            text,
        }
    }
}

struct FieldReader<'a> {
    mail: &'a [u8],
    block: &'a HeaderBlock,
    /// The charset of the body, for octets that are not UTF-8.
    charset: Option<String>,
    flags: BTreeSet<Flag>,
}

impl<'a> FieldReader<'a> {
    fn named(&self, name: &'static str) -> impl Iterator<Item = &'a FieldSpan> + use<'a> {
        let (mail, block) = (self.mail, self.block);
        block
            .fields
            .iter()
            .filter(move |field| field.is_named(mail, name))
    }

    /// The value of `field` in the form that the parser needs.
    fn input(&mut self, field: &FieldSpan) -> Vec<u8> {
        parser_input(
            field.raw(self.mail, &mut self.flags),
            self.charset.as_deref(),
            &mut self.flags,
        )
    }

    fn correspondents(&mut self, name: &'static str) -> Vec<HeaderAddress> {
        let mut all = Vec::new();
        for field in self.named(name) {
            let input = self.input(field);
            if let HeaderValue::Address(addresses) = MessageStream::new(&input).parse_address() {
                let room = ADDRESSES_MAX - all.len();
                let found = addresses.iter().take(room);
                let found = found.map(|addr| HeaderAddress::of(addr, &input));
                all.extend(with_whole_names(found));
                if addresses.iter().nth(room).is_some() {
                    self.flags.insert(Flag::TooManyAddresses);
                }
            }
        }
        all
    }

    fn message_ids(&mut self, name: &'static str) -> Vec<String> {
        let mut all = Vec::new();
        for field in self.named(name) {
            let mut input = self.input(field);
            if memmem::find(&input, b"=?").is_some() {
                // Some gateways encode the whole field, against RFC 2047 section 5.
                let value = MessageStream::new(&input).parse_unstructured();
                let decoded = cleaned(value.as_text().unwrap_or_default());
                input = format!("{decoded}\n").into_bytes();
            }
            let value = MessageStream::new(&input).parse_id();
            let ids = value.as_text_list().unwrap_or_default();
            all.extend(
                ids.iter()
                    .filter(|id| is_message_id(id))
                    .map(|id| id.to_string()),
            );
        }
        all
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        let input = self.input(self.named(name).next()?);
        let value = MessageStream::new(&input).parse_unstructured();
        Some(cleaned(value.as_text().unwrap_or_default()))
    }

    fn date(&mut self) -> Option<Timestamp> {
        let input = self.input(self.named("Date").next()?);
        let date = MessageStream::new(&input).parse_date().into_datetime()?;
        // The library converts days of any number; only a valid date has a timestamp.
        let is_real = date.is_valid() && (1970..=9999).contains(&date.year);
        let secs = is_real.then(|| date.to_timestamp())?;
        Some(Timestamp::from_secs(secs.try_into().ok()?))
    }

    fn fields(&mut self) -> Vec<HeaderField> {
        let (mail, block) = (self.mail, self.block);
        block
            .fields
            .iter()
            .map(|field| HeaderField {
                name: String::from_utf8_lossy(&mail[field.name.clone()]).into_owned(),
                value: unfolded(field.raw(mail, &mut self.flags)),
            })
            .collect()
    }
}

/// The addresses of one field in which a comma in a name was not quoted (`Müller, Anna <anna@…>`): a piece
/// without `@` is no address, but the beginning of the next name.
fn with_whole_names(found: impl Iterator<Item = HeaderAddress>) -> Vec<HeaderAddress> {
    let mut all: Vec<HeaderAddress> = Vec::new();
    for mut next in found {
        if next.address.is_some()
            && let Some(piece) = all.last().and_then(piece_of_name)
            && let Some(name) = next.name.take()
        {
            next.name = Some(cleaned(&format!("{piece}, {name}")));
            all.pop();
        }
        all.push(next);
    }
    all
}

/// The text of an address that is only the beginning of a name.
fn piece_of_name(address: &HeaderAddress) -> Option<String> {
    let text = address.name.as_ref().unwrap_or(&address.text);
    let is_piece = address.address.is_none() && !text.is_empty() && !text.contains(['@', '<']);
    is_piece.then(|| text.clone())
}

fn is_message_id(id: &str) -> bool {
    let fits = |c: char| !c.is_control() && !c.is_whitespace() && c != '<' && c != '>';
    (1..=MESSAGE_ID_BYTES_MAX).contains(&id.len()) && id.chars().all(fits)
}

/// The text on one line: controls become spaces, and spaces at the ends are removed.
fn cleaned(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if is_clean(c) && c != '\n' { c } else { ' ' })
        .take(LINE_CHARS_MAX)
        .collect();
    line.trim().to_owned()
}
