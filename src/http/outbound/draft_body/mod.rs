//! Owns the parsing of a call's body: JSON becomes a [`Draft`], or an error names the invalid field.
//!
//! Does not know threads: absent fields stay empty.

use axum::http::StatusCode;
use data_encoding::{BASE64, BASE64_NOPAD};
use serde_json::{Map, Value};

use crate::http::error::HttpError;
use crate::mail::address::Address;
use crate::mail::draft::{CC_MAX, Draft, DraftCall, DraftFile, DraftKey, DraftPart};
use crate::mail::text::breaks_line;

/// The only event that causes a mail.
const MESSAGE_CREATED: &str = "message.created";
/// Octets of the text.
pub(super) const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Octets of the HTML, the limit of composing.
pub(super) const HTML_BYTES_MAX: usize = 512 * 1024;
/// The number of attachments of a draft.
const FILES_MAX: usize = 20;
/// Octets of all attachments together.
const FILES_BYTES_MAX: usize = 20 * 1024 * 1024;
/// The number of extra header fields.
const HEADERS_MAX: usize = 20;
/// Octets of an id of the product.
const ID_BYTES_MAX: usize = 256;
/// Octets of a single-line value: a subject, a header's value, a Message-ID.
const LINE_BYTES_MAX: usize = 900;
/// Octets of a name.
const NAME_BYTES_MAX: usize = 256;
/// Octets of an address with its display name.
const MAILBOX_BYTES_MAX: usize = 1024;
/// Octets of a language tag (RFC 5646 section 4.4.1).
const LOCALE_BYTES_MAX: usize = 35;

/// The meaning of a body.
#[derive(Debug)]
pub(super) enum ParsedCall {
    /// A mail to send.
    Mail(Box<Draft>),
    /// Nothing to send, for this reason.
    Ignored(String),
}

/// Parses the body of `call`. `key` is the identity from the request's head.
pub(super) fn read(
    call: DraftCall,
    body: &[u8],
    key: Option<DraftKey>,
) -> Result<ParsedCall, HttpError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| HttpError::bad_request(format!("the body is not JSON: {error}")))?;
    let Value::Object(object) = value else {
        return Err(HttpError::bad_request("the body is not a JSON object"));
    };
    match call {
        DraftCall::Event => read_event(object, key),
        DraftCall::Direct => {
            let mut fields = DraftFields::new(object, String::new());
            let recipient = fields.mailbox("recipientEmail")?;
            let draft = Draft {
                subject: fields.line("subject", LINE_BYTES_MAX)?,
                sender_name: fields.line("senderName", NAME_BYTES_MAX)?,
                ..read_common(&mut fields, call, recipient, key)?
            };
            Ok(ParsedCall::Mail(Box::new(draft)))
        }
    }
}

/// The name of the field for a part of a draft.
pub fn field_name(call: DraftCall, part: DraftPart) -> &'static str {
    let (event, direct) = match part {
        DraftPart::Attachments => ("attachments", "attachments"),
        DraftPart::Cc => ("cc", "cc"),
        DraftPart::Headers => ("headers", "headers"),
        DraftPart::Html => ("messageHtml", "bodyHtml"),
        DraftPart::Recipient => ("threadMetadata.emailFrom", "recipientEmail"),
        DraftPart::Route => ("route", "route"),
        DraftPart::SenderName => ("senderProfile.displayName", "senderName"),
        DraftPart::Subject => ("threadMetadata.emailSubject", "subject"),
        DraftPart::Text => ("messageText", "body"),
        DraftPart::ThreadId => ("threadId", "threadId"),
    };
    match call {
        DraftCall::Event => event,
        DraftCall::Direct => direct,
    }
}

/// A request to suppress an address.
#[derive(Debug)]
pub(super) struct NewSuppression {
    pub(super) address: Address,
    pub(super) reason: Option<String>,
    pub(super) days: Option<u64>,
}

/// Parses the body that adds an address to the suppression list.
pub(super) fn read_suppression(body: &[u8]) -> Result<NewSuppression, HttpError> {
    let value = serde_json::from_slice(body);
    let Ok(Value::Object(object)) = value else {
        return Err(HttpError::bad_request("the body is not a JSON object"));
    };
    let mut fields = DraftFields::new(object, String::new());
    let mailbox = fields.mailbox("address")?;
    let (_, address) = mailbox.ok_or_else(|| HttpError::invalid_field("address", "is required"))?;
    let days = fields.take("days").map(|days| {
        whole_number(&days).ok_or_else(|| HttpError::invalid_field("days", "is not a whole number"))
    });
    Ok(NewSuppression {
        address,
        reason: fields.line("reason", LINE_BYTES_MAX)?,
        days: days.transpose()?,
    })
}

fn read_event(object: Map<String, Value>, key: Option<DraftKey>) -> Result<ParsedCall, HttpError> {
    let (name, object) = event_fields(object)?;
    if name != MESSAGE_CREATED {
        let name: String = name.chars().take(60).collect();
        return Ok(ParsedCall::Ignored(format!(
            "event {name:?} is not {MESSAGE_CREATED}"
        )));
    }
    let mut fields = DraftFields::new(object, String::new());
    let mut thread = fields.object("threadMetadata")?;
    if thread.line("sourceType", NAME_BYTES_MAX)?.as_deref() != Some("email") {
        return Ok(ParsedCall::Ignored("sourceType is not email".to_owned()));
    }
    let mut sender = fields.object("senderProfile")?;
    let recipient = thread.mailbox("emailFrom")?;
    let draft = Draft {
        subject: thread.line("emailSubject", LINE_BYTES_MAX)?,
        last_message_id: thread.line("lastEmailMessageId", LINE_BYTES_MAX)?,
        sender_name: sender.line("displayName", NAME_BYTES_MAX)?,
        ..read_common(&mut fields, DraftCall::Event, recipient, key)?
    };
    if draft.message_id.is_none() {
        return Err(HttpError::invalid_field("messageId", "is required"));
    }
    Ok(ParsedCall::Mail(Box::new(draft)))
}

/// The event's name and its fields, which stand in `data` or beside the name. A `type` without a dot beside
/// the fields belongs to the message.
fn event_fields(mut object: Map<String, Value>) -> Result<(String, Map<String, Value>), HttpError> {
    let name = ["type", "event"]
        .into_iter()
        .find_map(|key| object.get(key)?.as_str());
    let name = name.map(str::to_owned);
    match object.remove("data") {
        Some(Value::Object(data)) => match name {
            Some(name) => Ok((name, data)),
            None => Err(HttpError::invalid_field(
                "type",
                "is required beside data: the event's name",
            )),
        },
        Some(_) => Err(HttpError::invalid_field("data", "is not an object")),
        None => {
            let name = name.filter(|name| name.contains('.'));
            Ok((name.unwrap_or_else(|| MESSAGE_CREATED.to_owned()), object))
        }
    }
}

/// Reads the fields that both calls share.
fn read_common(
    fields: &mut DraftFields,
    call: DraftCall,
    recipient: Option<(Option<String>, Address)>,
    key: Option<DraftKey>,
) -> Result<Draft, HttpError> {
    let thread_id = fields.line("threadId", ID_BYTES_MAX)?;
    let thread_id = thread_id.ok_or_else(|| HttpError::invalid_field("threadId", "is required"))?;
    let message_id = fields.line("messageId", ID_BYTES_MAX)?;
    let text_name = field_name(call, DraftPart::Text);
    let text = fields.text(text_name, TEXT_BYTES_MAX)?;
    let text = text.filter(|text| !text.trim().is_empty());
    let text = text.ok_or_else(|| HttpError::invalid_field(text_name, "is required"))?;
    // A key given for this request has priority; the digest of a signed request comes last.
    let key = match (key, &message_id) {
        (Some(key @ DraftKey::Given(_)), _) => key,
        (_, Some(id)) => DraftKey::Message(id.clone()),
        (Some(key), None) => key,
        (None, None) => DraftKey::Random(random()?),
    };
    let (recipient_name, recipient) = recipient.unzip();
    let cc = fields.cc(recipient.as_ref())?;
    Ok(Draft {
        call,
        key,
        route: fields.line("route", NAME_BYTES_MAX)?,
        thread_id,
        message_id,
        recipient,
        recipient_name: recipient_name.flatten(),
        cc,
        subject: None,
        sender_name: None,
        text,
        html: fields.text(field_name(call, DraftPart::Html), HTML_BYTES_MAX)?,
        files: fields.files()?,
        headers: fields.headers()?,
        locale: fields.locale()?,
        is_automatic: fields.is_automatic()?,
        last_message_id: None,
    })
}

fn random() -> Result<[u8; 16], HttpError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| {
        let message = "no random numbers now, try later";
        HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    })?;
    Ok(bytes)
}

/// The fields of an object, each taken once and checked. `null` counts as absent.
struct DraftFields {
    object: Map<String, Value>,
    /// The prefix of field names in errors.
    path: String,
}

impl DraftFields {
    fn new(object: Map<String, Value>, path: String) -> Self {
        Self { object, path }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name).filter(|value| !value.is_null())
    }

    fn invalid(&self, name: &str, why: impl AsRef<str>) -> HttpError {
        HttpError::invalid_field(&format!("{}{name}", self.path), why.as_ref())
    }

    fn object(&mut self, name: &str) -> Result<Self, HttpError> {
        let path = format!("{}{name}.", self.path);
        match self.take(name) {
            None => Ok(Self::new(Map::new(), path)),
            Some(Value::Object(object)) => Ok(Self::new(object, path)),
            Some(_) => Err(self.invalid(name, "is not an object")),
        }
    }

    fn string(&mut self, name: &str, bytes_max: usize) -> Result<Option<String>, HttpError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() > bytes_max => {
                Err(self.invalid(name, format!("has more than {bytes_max} bytes")))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(name, "is not a string")),
        }
    }

    /// A text of several lines.
    fn text(&mut self, name: &str, bytes_max: usize) -> Result<Option<String>, HttpError> {
        let text = self.string(name, bytes_max)?;
        if text.as_ref().is_some_and(|text| text.contains('\0')) {
            return Err(self.invalid(name, "contains a NUL"));
        }
        Ok(text)
    }

    /// One line, trimmed; an empty one counts as absent.
    fn line(&mut self, name: &str, bytes_max: usize) -> Result<Option<String>, HttpError> {
        let Some(line) = self.string(name, bytes_max)? else {
            return Ok(None);
        };
        if line.chars().any(breaks_line) {
            return Err(self.invalid(name, "contains a line end or another control character"));
        }
        let line = line.trim();
        Ok((!line.is_empty()).then(|| line.to_owned()))
    }

    /// An address with or without a display name, as `ann@example.com` or `Ann <ann@example.com>`.
    fn mailbox(&mut self, name: &str) -> Result<Option<(Option<String>, Address)>, HttpError> {
        let Some(text) = self.line(name, MAILBOX_BYTES_MAX)? else {
            return Ok(None);
        };
        let read = mailbox(&text).map_err(|why| self.invalid(name, why))?;
        Ok(Some(read))
    }

    fn list(&mut self, name: &str, max: usize) -> Result<Vec<Value>, HttpError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) if items.len() > max => {
                Err(self.invalid(name, format!("has more than {max} entries")))
            }
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.invalid(name, "is not a list")),
        }
    }

    fn cc(&mut self, recipient: Option<&Address>) -> Result<Vec<Address>, HttpError> {
        let mut copied: Vec<Address> = Vec::new();
        let mut seen: Vec<String> = recipient.map(Address::folded).into_iter().collect();
        for (at, item) in self.list("cc", CC_MAX)?.into_iter().enumerate() {
            // Parsed as a separate field, so that the error names the entry.
            let name = format!("cc[{at}]");
            let mut one = Self::new(Map::from_iter([(name.clone(), item)]), self.path.clone());
            let read = one.mailbox(&name)?;
            let (_, address) = read.ok_or_else(|| self.invalid(&name, "is empty"))?;
            if !seen.contains(&address.folded()) {
                seen.push(address.folded());
                copied.push(address);
            }
        }
        Ok(copied)
    }

    fn files(&mut self) -> Result<Vec<DraftFile>, HttpError> {
        let mut files = Vec::new();
        let mut bytes_sum = 0;
        for (at, item) in self.list("attachments", FILES_MAX)?.into_iter().enumerate() {
            let name = format!("attachments[{at}]");
            let Value::Object(object) = item else {
                return Err(self.invalid(&name, "is not an object"));
            };
            let mut one = Self::new(object, format!("{}{name}.", self.path));
            let file = one.file()?;
            bytes_sum += file.bytes.len();
            if bytes_sum > FILES_BYTES_MAX {
                let why = format!("have more than {FILES_BYTES_MAX} bytes together");
                return Err(self.invalid("attachments", why));
            }
            files.push(file);
        }
        Ok(files)
    }

    fn file(&mut self) -> Result<DraftFile, HttpError> {
        if self.take("url").is_some() {
            return Err(self.invalid("url", "is not fetched: send content in base64"));
        }
        let filename = self.line("filename", NAME_BYTES_MAX)?;
        let filename = filename.ok_or_else(|| self.invalid("filename", "is required"))?;
        let content_type = self.line("contentType", NAME_BYTES_MAX)?;
        let content = self.string("content", usize::MAX)?;
        let content = content.ok_or_else(|| self.invalid("content", "is required, in base64"))?;
        let padded = BASE64.decode(content.as_bytes());
        let bytes = padded.or_else(|_| BASE64_NOPAD.decode(content.as_bytes()));
        let bytes = bytes.map_err(|_| self.invalid("content", "is not base64"))?;
        Ok(DraftFile {
            filename,
            content_type: content_type.unwrap_or_else(|| "application/octet-stream".to_owned()),
            bytes: bytes.into(),
        })
    }

    fn headers(&mut self) -> Result<Vec<(String, String)>, HttpError> {
        let mut given = self.object("headers")?;
        let names: Vec<String> = given.object.keys().cloned().collect();
        if names.len() > HEADERS_MAX {
            return Err(self.invalid("headers", format!("has more than {HEADERS_MAX} entries")));
        }
        let mut headers = Vec::new();
        for name in names {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            if name.is_empty() || name.len() > 40 || !name.bytes().all(fits) {
                return Err(
                    self.invalid("headers", "a name has 1 to 40 letters, digits and dashes")
                );
            }
            let value = given.line(&name, LINE_BYTES_MAX)?;
            headers.extend(value.map(|value| (name, value)));
        }
        Ok(headers)
    }

    fn locale(&mut self) -> Result<Option<String>, HttpError> {
        let locale = self.line("locale", LOCALE_BYTES_MAX)?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if locale.as_ref().is_some_and(|text| !text.bytes().all(fits)) {
            return Err(self.invalid("locale", "is not a language tag such as de or pt-BR"));
        }
        Ok(locale)
    }

    fn is_automatic(&mut self) -> Result<bool, HttpError> {
        let by_kind = match self.line("kind", NAME_BYTES_MAX)?.as_deref() {
            None => None,
            Some("person") => Some(false),
            Some("automatic") => Some(true),
            Some(_) => return Err(self.invalid("kind", "is neither person nor automatic")),
        };
        match (self.take("automatic"), by_kind) {
            (None, by_kind) => Ok(by_kind.unwrap_or(false)),
            (Some(Value::Bool(said)), None) => Ok(said),
            (Some(Value::Bool(said)), Some(by_kind)) if said == by_kind => Ok(said),
            (Some(Value::Bool(_)), Some(_)) => Err(self.invalid("kind", "contradicts automatic")),
            (Some(_), _) => Err(self.invalid("automatic", "is neither true nor false")),
        }
    }
}

/// A whole number, which JSON may write as `3.0` too.
fn whole_number(value: &Value) -> Option<u64> {
    let whole = |number: f64| (number.fract() == 0.0 && number >= 0.0).then_some(number as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(whole))
}

fn mailbox(text: &str) -> Result<(Option<String>, Address), String> {
    let (name, address) = match text
        .strip_suffix('>')
        .and_then(|text| text.rsplit_once('<'))
    {
        Some((name, address)) => (name.trim(), address.trim()),
        None => ("", text),
    };
    let quoted = name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'));
    let name = quoted.unwrap_or(name).trim();
    let address = Address::parse(address).map_err(|error| error.to_string())?;
    Ok(((!name.is_empty()).then(|| name.to_owned()), address))
}

#[cfg(test)]
mod tests;
