//! Owns the step with which every door accepts a mail: equivalent recipients are merged, the mail is stored
//! within a time limit, and a log line records the acceptance.
//!
//! Does not resolve recipients, and does not answer the client.

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::timeout;
use tracing::info;

use super::maillog::{NULL_SENDER, masked_recipients};
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::envelope::{Door, Envelope, Peer, Recipient};
use crate::store::{MailId, Store, StoreError};

/// The reason why a mail was not accepted. The client may send it again.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The store did not accept the mail.
    #[error("store")]
    Store(#[from] StoreError),
    /// The store did not answer in time. It may still keep the mail: then a second copy is recognised by
    /// its fingerprint; the mail is never lost.
    #[error("the store did not answer in time")]
    TimedOut,
}

/// The fields of the log line besides the envelope. Each door fills in the known ones.
#[derive(Clone, Debug, Default)]
pub struct AcceptedVia<'a> {
    /// The number of the connection.
    pub connection: Option<u64>,
    /// The address of the peer, or `local`.
    pub peer: Option<String>,
    /// The address of the client behind the peer, if the peer named it.
    pub client: Option<String>,
    /// True if the connection had TLS.
    pub tls: Option<bool>,
    /// The name of the webhook provider.
    pub provider: Option<&'a str>,
    /// The provider's id of the mail.
    pub id: Option<&'a str>,
}

/// Stores a mail within `limit`; after `Ok` it is on disk.
///
/// # Errors
/// The store did not accept it, or not in time.
pub async fn accept(
    store: &Store,
    limit: Duration,
    mut envelope: Envelope,
    mail: Bytes,
    via: AcceptedVia<'_>,
) -> Result<MailId, AcceptError> {
    merge_duplicates(&mut envelope.recipients);
    let sender = envelope.sender.as_ref();
    let sender = sender.map_or(NULL_SENDER, |sender| sender.domain().as_str());
    let sender_domain = sender.escape_debug().to_string();
    let recipients = masked_recipients(&envelope.recipients);
    let (deliveries, protocol) = (envelope.recipients.len(), door_name(envelope.peer.door));
    let bytes = mail.len();
    let accepted = timeout(limit, store.accept(envelope, mail)).await;
    let mail = accepted.map_err(|_| AcceptError::TimedOut)??;
    info!(
        mail = mail.0,
        connection = via.connection,
        protocol,
        provider = via.provider,
        id = via.id.map(|id| id.escape_debug().to_string()),
        peer = via.peer,
        client = via.client,
        sender_domain,
        recipients,
        deliveries,
        bytes,
        tls = via.tls,
        "received"
    );
    Ok(mail)
}

/// The envelope of a mail that came without an SMTP dialogue. Its sender is not checked yet.
pub fn envelope_without_dialogue(
    door: Door,
    sender: Option<Address>,
    recipients: Vec<Recipient>,
    received_at: Timestamp,
) -> Envelope {
    let addresses = recipients.iter().map(|recipient| &recipient.address);
    Envelope {
        smtputf8: addresses.chain(&sender).any(Address::is_utf8),
        sender_untold: sender.is_none(),
        sender,
        peer: Peer {
            door,
            ip: None,
            helo: String::new(),
            tls: None,
        },
        received_at,
        told: None,
        verdict: None,
        recipients,
    }
}

/// Keeps the first of equivalent recipients, such as one named twice, or one token in two forms of an
/// address. Each remaining one becomes a separate delivery.
pub fn merge_duplicates(recipients: &mut Vec<Recipient>) {
    let mut kept: Vec<Recipient> = Vec::with_capacity(recipients.len());
    for recipient in recipients.drain(..) {
        let same = |other: &Recipient| {
            (&other.route, &other.target) == (&recipient.route, &recipient.target)
        };
        if !kept.iter().any(same) {
            kept.push(recipient);
        }
    }
    *recipients = kept;
}

const fn door_name(door: Door) -> &'static str {
    match door {
        Door::Imap => "imap",
        Door::Inject => "inject",
        Door::Lmtp => "lmtp",
        Door::Smtp => "smtp",
        Door::Webhook => "webhook",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::envelope::RecipientTarget;

    #[test]
    fn equivalent_recipients_are_merged() {
        let recipient = |address: &str, mailbox: &str| Recipient {
            address: Address::parse(address).unwrap(),
            route: "default".to_owned(),
            target: RecipientTarget::Mailbox(mailbox.to_owned()),
        };
        let mut recipients = vec![
            recipient("fans@in.example", "fans"),
            recipient("general@in.example", "general"),
            recipient("FANS@in.example", "fans"),
            recipient("postmaster@in.example", "general"),
        ];
        merge_duplicates(&mut recipients);
        let kept: Vec<_> = recipients.iter().map(|r| r.address.to_string()).collect();
        assert_eq!(kept, ["fans@in.example", "general@in.example"]);
    }
}
