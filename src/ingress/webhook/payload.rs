//! Owns the JSON of a mail in our own scheme and in Standard Webhooks.
//!
//! Does not know the signature of the JSON.

use super::error::Malformed;
use super::incoming::{
    IncomingMail, ProviderResults, Recipients, decode_base64, loggable_id, parse_addresses,
    reverse_path,
};
use super::json::{Json, JsonObject};
use super::mime::{FilePart, MimeBuilder};
use crate::mail::view::HeaderView;

/// Decodes `{"from","to","subject","text","html","headers"}`, or `{"raw"}` with the mail in base64; with
/// `{"envelope":{"to","from"}}` if the sender has one. `name` distinguishes this request from another with
/// the same content.
pub(super) fn decode(json: &Json, provider: &str, name: &str) -> Result<IncomingMail, Malformed> {
    let root = json.object("")?;
    let envelope = root.object("envelope")?;
    let id = match root.scalar("messageId")? {
        Some(id) => id,
        None => root.scalar("id")?.unwrap_or_default(),
    };
    let bytes = match root.text("raw")? {
        Some(raw) => decode_base64(raw, "raw")?.into(),
        None => {
            let name = if id.is_empty() { name } else { &id };
            build_mime(root, &id)?.build(provider, name)
        }
    };
    let recipients = match envelope {
        Some(envelope) => Recipients::Envelope(read_addresses(envelope, "to")?),
        None => {
            let mut all = read_addresses(root, "to")?;
            all.extend(read_addresses(root, "cc")?);
            let listed = HeaderView::parse(&bytes).recipients();
            all.extend(listed.iter().map(ToString::to_string));
            Recipients::Header(all)
        }
    };
    let from = envelope.map(|envelope| envelope.text("from")).transpose()?;
    let sender = match from.flatten() {
        Some(from) => reverse_path(from),
        None => read_addresses(root, "from")?
            .into_iter()
            .next()
            .or_else(|| author(&bytes)),
    };
    Ok(IncomingMail {
        id: loggable_id(&id),
        sender,
        recipients,
        bytes,
        results: ProviderResults::of(provider).into_verdict(),
    })
}

/// The author of a mail, for requests without a sender.
pub(super) fn author(bytes: &[u8]) -> Option<String> {
    HeaderView::parse(bytes).author().map(ToString::to_string)
}

fn build_mime(root: JsonObject<'_>, id: &str) -> Result<MimeBuilder, Malformed> {
    let mut mime = MimeBuilder::default();
    copy_headers(&mut mime, root.member("headers")?)?;
    for (field, name) in [
        ("From", "from"),
        ("To", "to"),
        ("Cc", "cc"),
        ("Reply-To", "replyTo"),
    ] {
        mime.field_if_absent(field, header_value(root, name)?.as_deref());
    }
    mime.field_if_absent("Subject", root.text("subject")?);
    mime.field_if_absent("In-Reply-To", root.text("inReplyTo")?);
    mime.field_if_absent("Date", root.text("date")?);
    if id.starts_with('<') && id.ends_with('>') {
        mime.field_if_absent("Message-ID", Some(id));
    }
    mime.text(root.text("text")?);
    mime.html(root.text("html")?);
    if root.member("text")?.is_none() && root.member("html")?.is_none() {
        return Err(Malformed::new("text, html and raw: all missing"));
    }
    for attachment in root.list("attachments")? {
        let attachment = attachment.object("attachments")?;
        let content = attachment.required_text("content")?;
        mime.add_file(FilePart {
            file_name: attachment.text("filename")?.map(str::to_owned),
            media_type: attachment.text("contentType")?.map(str::to_owned),
            content_id: attachment.text("contentId")?.map(str::to_owned),
            bytes: decode_base64(content, "attachments.content")?.into(),
        });
    }
    Ok(mime)
}

/// Copies header fields: `{name: value}`, `{name: [values]}`, `[[name, value]]` or `[{"name","value"}]`.
pub(super) fn copy_headers(mime: &mut MimeBuilder, json: Option<&Json>) -> Result<(), Malformed> {
    match json {
        None => {}
        Some(Json::Text(block)) => mime.header_block(block),
        Some(Json::Object(members)) => {
            for (name, value) in members {
                match value {
                    Json::List(values) => {
                        for value in values {
                            mime.field(name, value.text("headers")?);
                        }
                    }
                    value => mime.field(name, value.text("headers")?),
                }
            }
        }
        Some(list) => {
            for pair in list.list("headers")? {
                let (name, value) = name_value(pair)?;
                mime.field(name, value);
            }
        }
    }
    Ok(())
}

/// The name and value of `[name, value]`, or of an object with `name` and `value` in either case.
pub(super) fn name_value(pair: &Json) -> Result<(&str, &str), Malformed> {
    if let Json::List(list) = pair {
        return match list.as_slice() {
            [name, value] => Ok((name.text("headers")?, value.text("headers")?)),
            _ => Err(Malformed::field("headers", "not a pair")),
        };
    }
    let object = pair.object("headers")?;
    let either = |lower: &str, upper: &str| match object.text(lower)? {
        Some(text) => Ok(text),
        None => object.required_text(upper),
    };
    Ok((either("name", "Name")?, either("value", "Value")?))
}

/// An address with a display name, as in a header field. An address that has a name already keeps it.
pub(super) fn with_display_name(address: &str, name: Option<&str>) -> String {
    let name = name.unwrap_or_default().replace(['"', '\\'], "");
    if name.trim().is_empty() || address.contains('<') {
        return address.to_owned();
    }
    format!("\"{}\" <{}>", name.trim(), address.trim())
}

/// The addresses in a text, a list of texts, or objects with `email` or `address`.
fn read_addresses(root: JsonObject<'_>, name: &str) -> Result<Vec<String>, Malformed> {
    let Some(json) = root.member(name)? else {
        return Ok(Vec::new());
    };
    for_each_person(json, name, &mut |written| parse_addresses(&written))
}

/// The same addresses in the form of a header field.
fn header_value(root: JsonObject<'_>, name: &str) -> Result<Option<String>, Malformed> {
    let Some(json) = root.member(name)? else {
        return Ok(None);
    };
    Ok(Some(
        for_each_person(json, name, &mut |written| vec![written])?.join(", "),
    ))
}

fn for_each_person(
    json: &Json,
    name: &str,
    take: &mut dyn FnMut(String) -> Vec<String>,
) -> Result<Vec<String>, Malformed> {
    match json {
        Json::Text(text) => Ok(take(text.clone())),
        Json::Object(_) => {
            let person = json.object(name)?;
            let address = match person.text("email")? {
                Some(address) => address,
                None => person.required_text("address")?,
            };
            Ok(take(with_display_name(address, person.text("name")?)))
        }
        list => {
            let mut all = Vec::new();
            for one in list.list(name)? {
                if matches!(one, Json::List(_)) {
                    return Err(Malformed::field(name, "a list in a list"));
                }
                all.extend(for_each_person(one, name, take)?);
            }
            Ok(all)
        }
    }
}
