//! Owns the JSON of a mail that our own scheme and Standard Webhooks carry.
//!
//! Does not know how it was signed.

use super::incoming::{
    Incoming, Malformed, Recipients, Results, addresses, base64, reverse_path, short,
};
use super::json::{Json, Object};
use super::rebuild::{Attachment, Draft};
use crate::mail::view::HeaderView;

/// Reads `{"from","to","subject","text","html","headers"}`, or `{"raw"}` with the mail in base64;
/// with `{"envelope":{"to","from"}}` where the sender has one. `name` is what tells this request from
/// another with the same words.
pub(super) fn decode(body: &[u8], provider: &str, name: &str) -> Result<Incoming, Malformed> {
    let json = Json::parse(body)?;
    let root = json.object("")?;
    let envelope = root.object("envelope")?;
    let id = match root.scalar("messageId")? {
        Some(id) => id,
        None => root.scalar("id")?.unwrap_or_default(),
    };
    let bytes = match root.text("raw")? {
        Some(raw) => base64(raw, "raw")?.into(),
        None => {
            let name = if id.is_empty() { name } else { &id };
            draft(root, &id)?.build(provider, name)
        }
    };
    let recipients = match envelope {
        Some(envelope) => Recipients::Envelope(people(envelope, "to")?),
        None => {
            let mut all = people(root, "to")?;
            all.extend(people(root, "cc")?);
            let told = HeaderView::parse(&bytes).recipients();
            all.extend(told.iter().map(ToString::to_string));
            Recipients::Header(all)
        }
    };
    let told = envelope.map(|envelope| envelope.text("from")).transpose()?;
    let sender = match told.flatten() {
        Some(from) => reverse_path(from),
        None => people(root, "from")?
            .into_iter()
            .next()
            .or_else(|| author(&bytes)),
    };
    Ok(Incoming {
        id: short(&id),
        sender,
        recipients,
        bytes,
        told: Results::by(provider).told(),
    })
}

/// Who wrote the mail, for doors that do not tell who sent it.
pub(super) fn author(bytes: &[u8]) -> Option<String> {
    HeaderView::parse(bytes).author().map(ToString::to_string)
}

fn draft(root: Object<'_>, id: &str) -> Result<Draft, Malformed> {
    let mut draft = Draft::default();
    headers(&mut draft, root.member("headers")?)?;
    for (field, name) in [
        ("From", "from"),
        ("To", "to"),
        ("Cc", "cc"),
        ("Reply-To", "replyTo"),
    ] {
        draft.field_if_none(field, written(root, name)?.as_deref());
    }
    draft.field_if_none("Subject", root.text("subject")?);
    draft.field_if_none("In-Reply-To", root.text("inReplyTo")?);
    draft.field_if_none("Date", root.text("date")?);
    if id.starts_with('<') && id.ends_with('>') {
        draft.field_if_none("Message-ID", Some(id));
    }
    draft.text(root.text("text")?);
    draft.html(root.text("html")?);
    if root.member("text")?.is_none() && root.member("html")?.is_none() {
        return Err(Malformed::new("text, html and raw: all missing"));
    }
    for attachment in root.list("attachments")? {
        let attachment = attachment.object("attachments")?;
        let content = base64(attachment.needed_text("content")?, "attachments.content")?;
        draft.attach(Attachment {
            file_name: attachment.text("filename")?.map(str::to_owned),
            media_type: attachment.text("contentType")?.map(str::to_owned),
            content_id: attachment.text("contentId")?.map(str::to_owned),
            bytes: content.into(),
        });
    }
    Ok(draft)
}

/// Takes over header fields: `{name: value}`, `{name: [values]}`, `[[name, value]]` or
/// `[{"name","value"}]`.
pub(super) fn headers(draft: &mut Draft, json: Option<&Json>) -> Result<(), Malformed> {
    match json {
        None => {}
        Some(Json::Text(block)) => draft.header_block(block),
        Some(Json::Object(members)) => {
            for (name, value) in members {
                match value {
                    Json::List(values) => {
                        for value in values {
                            draft.field(name, value.text("headers")?);
                        }
                    }
                    value => draft.field(name, value.text("headers")?),
                }
            }
        }
        Some(list) => {
            for pair in list.list("headers")? {
                let (name, value) = pair_of(pair)?;
                draft.field(name, value);
            }
        }
    }
    Ok(())
}

/// `[name, value]`, or an object with `name` and `value` in either case.
pub(super) fn pair_of(pair: &Json) -> Result<(&str, &str), Malformed> {
    if let Json::List(list) = pair {
        return match list.as_slice() {
            [name, value] => Ok((name.text("headers")?, value.text("headers")?)),
            _ => Err(Malformed::field("headers", "not a pair")),
        };
    }
    let object = pair.object("headers")?;
    let either = |lower: &str, upper: &str| match object.text(lower)? {
        Some(text) => Ok(text),
        None => object.needed_text(upper),
    };
    Ok((either("name", "Name")?, either("value", "Value")?))
}

/// An address with the name of its person, as a header field has it. An address that has a name
/// keeps it.
pub(super) fn named(address: &str, name: Option<&str>) -> String {
    let name = name.unwrap_or_default().replace(['"', '\\'], "");
    if name.trim().is_empty() || address.contains('<') {
        return address.to_owned();
    }
    format!("\"{}\" <{}>", name.trim(), address.trim())
}

/// The addresses in a text, a list of texts, or objects with `email` or `address`.
fn people(root: Object<'_>, name: &str) -> Result<Vec<String>, Malformed> {
    let Some(json) = root.member(name)? else {
        return Ok(Vec::new());
    };
    each(json, name, &mut |written| addresses(&written))
}

/// The same as a header field has it.
fn written(root: Object<'_>, name: &str) -> Result<Option<String>, Malformed> {
    let Some(json) = root.member(name)? else {
        return Ok(None);
    };
    Ok(Some(
        each(json, name, &mut |written| vec![written])?.join(", "),
    ))
}

fn each(
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
                None => person.needed_text("address")?,
            };
            Ok(take(named(address, person.text("name")?)))
        }
        list => {
            let mut all = Vec::new();
            for one in list.list(name)? {
                if matches!(one, Json::List(_)) {
                    return Err(Malformed::field(name, "a list in a list"));
                }
                all.extend(each(one, name, take)?);
            }
            Ok(all)
        }
    }
}
