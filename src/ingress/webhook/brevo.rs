//! Owns Brevo's inbound parsing: a batch of mails in parts, with an account or a bearer token.
//!
//! Does not fetch the attachments, which Brevo keeps behind its API.

use super::Adapter;
use super::incoming::{Decoded, Incoming, MAILS_MAX, Malformed, Recipients, Results, bare, short};
use super::json::{Json, Object};
use super::law::Law;
use super::payload::headers;
use super::proof::{Account, Secret, Unproven, basic, word};
use super::rebuild::Draft;
use super::request::{Authentic, Request};
use crate::clock::Timestamp;

/// Brevo's door. A request needs a bearer token or an account.
#[derive(Clone, Debug)]
pub struct Brevo {
    /// Names and passwords.
    pub accounts: Vec<Account>,
    /// Whole values of `Authorization`, as `Bearer …`.
    pub authorizations: Vec<Secret>,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Brevo {
    /// The door with its usual bound.
    pub fn new(accounts: Vec<Account>, tokens: &[&str]) -> Self {
        let bearer = |token: &&str| Secret::new(format!("Bearer {token}"));
        Self {
            accounts,
            authorizations: tokens
                .iter()
                .filter(|t| !t.is_empty())
                .map(bearer)
                .collect(),
            bytes_max: 30 << 20,
        }
    }
}

impl Adapter for Brevo {
    fn name(&self) -> &'static str {
        "brevo"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn law(&self) -> Law {
        Law::RETRIES_FOR_LONG
    }

    fn is_marked(&self, request: &Request) -> bool {
        let has = |mark: &[u8]| memchr::memmem::find(request.body(), mark).is_some();
        has(b"\"items\"") && (has(b"\"Uuid\"") || has(b"\"RawTextBody\""))
    }

    fn authenticate<'r>(
        &self,
        request: &'r Request,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven> {
        let bearer = word(request.headers(), "authorization", &self.authorizations);
        let proof = bearer.or_else(|_| basic(request.headers(), &self.accounts))?;
        Ok(request.proven(proof))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let json = Json::parse(authentic.request().body())?;
        let items = json.object("")?.needed("items")?.list("items")?;
        if items.len() > MAILS_MAX {
            return Err(Malformed::new(format!("more than {MAILS_MAX} items")));
        }
        let mails: Result<Vec<_>, _> = items
            .iter()
            .map(|item| mail(self.name(), item.object("items")?))
            .collect();
        match mails? {
            mails if mails.is_empty() => Ok(Decoded::Nothing("no inbound mail")),
            mails => Ok(Decoded::Mails(mails)),
        }
    }
}

fn mail(provider: &str, item: Object<'_>) -> Result<Incoming, Malformed> {
    let ids = item
        .member("Uuid")?
        .map(|ids| ids.texts("Uuid"))
        .transpose()?;
    let id = ids
        .unwrap_or_default()
        .into_iter()
        .next()
        .unwrap_or_default();
    let mut draft = Draft::default();
    headers(&mut draft, item.member("Headers")?)?;
    let from = item
        .object("From")?
        .map(|from| from.text("Address"))
        .transpose()?
        .flatten();
    draft.field_if_none("From", from);
    draft.field_if_none("Subject", item.text("Subject")?);
    draft.field_if_none("Date", item.text("SentAtDate")?);
    draft.field_if_none("Message-ID", item.text("MessageId")?);
    draft.field_if_none("In-Reply-To", item.text("InReplyTo")?);
    draft.text(item.text("RawTextBody")?);
    draft.html(item.text("RawHtmlBody")?);
    let mut to = Vec::new();
    for name in ["Recipients", "To", "Cc"] {
        for person in item.list(name)? {
            match person {
                Json::Text(address) => to.push(address.clone()),
                person => {
                    let address = person.object(name)?.text("Address")?;
                    to.extend(address.map(str::to_owned));
                }
            }
        }
    }
    let mut results = Results::by(provider);
    results.add("spam_score", None, item.scalar("SpamScore")?.as_deref());
    let files = item.list("Attachments")?.len();
    if files > 0 {
        draft.field("X-Attachments-Not-Fetched", &files.to_string());
    }
    Ok(Incoming {
        id: short(&id),
        sender: from.and_then(bare),
        recipients: Recipients::Header(to),
        bytes: draft.build(provider, &id),
        told: results.told(),
    })
}
