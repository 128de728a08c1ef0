//! Owns the envelope: sender, recipients, the door through which a mail came, and the known facts about the
//! peer.
//!
//! Does not hold the mail's bytes, and decides nothing.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::address::Address;
use super::job_id::JobId;
use super::token::Claims;
use super::verdict::Verdict;
use crate::clock::Timestamp;

/// The envelope of a mail, kept on disk beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The reverse-path; `None` is the null sender `<>` (RFC 5321 section 4.5.5), unless `sender_untold` is
    /// set.
    pub sender: Option<Address>,
    /// True if the reverse-path is not known: the door has none, or gave no address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sender_untold: bool,
    /// The recipients, at least one; each becomes a separate delivery.
    pub recipients: Vec<Recipient>,
    /// The peer that handed the mail in.
    pub peer: Peer,
    /// The time at which the whole mail was received.
    pub received_at: Timestamp,
    /// True if the transaction used SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// The results of the provider that handed the mail in; `None` at every other door.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<ProviderVerdict>,
    /// The verdict on the sender; `None` if nothing was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Box<Verdict>>,
}

/// The check results that a provider reports for a mail. Postern does not verify them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderVerdict {
    /// The provider's name, for example `sendgrid`.
    pub by: String,
    /// The results, in the provider's order; at most [`ProviderVerdict::CHECKS_MAX`].
    pub checks: Vec<ProviderCheck>,
}

impl ProviderVerdict {
    /// The upper bound of results that are kept.
    pub const CHECKS_MAX: usize = 32;
}

/// One result of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderCheck {
    /// The method: `spf`, `dkim`, `dmarc`, `spam`, `spam_score`, `virus`.
    pub name: String,
    /// The domain the result is for, if the provider names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The provider's word, lower-cased and short: `pass`, `fail`, `softfail`, `1.7`.
    pub result: String,
}

/// A recipient, with the meaning of its address at the time of acceptance.
///
/// The meaning is stored and not looked up again: a mail must not be lost when a key is retired between the
/// 250 and the delivery.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recipient {
    /// The forward-path as the peer gave it.
    pub address: Address,
    /// The name of the route that owns the domain.
    pub route: String,
    /// The meaning of the address.
    pub target: RecipientTarget,
}

/// The meaning of a recipient's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipientTarget {
    /// A mailbox by its name: the thread is found by headers, or a new one begins.
    Mailbox(String),
    /// A verified token: the thread is known.
    Thread(Claims),
    /// A verified return path: a bounce of one of our mails, or a report about one.
    Return(JobId),
}

/// The peer that handed a mail in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The door through which the mail came.
    pub door: Door,
    /// The address of the peer; `None` on a unix socket and if the door does not report it.
    pub ip: Option<IpAddr>,
    /// The name given in EHLO, HELO or LHLO, unchanged; empty at doors without a greeting.
    pub helo: String,
    /// The TLS version and cipher suite, if the connection had TLS.
    pub tls: Option<String>,
}

/// The ways by which a mail comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// A polled mailbox.
    Imap,
    /// The operator's `mail inject`.
    Inject,
    /// LMTP (RFC 2033).
    Lmtp,
    /// SMTP (RFC 5321).
    Smtp,
    /// A provider's HTTP request.
    Webhook,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::verdict::AuthResult;

    #[test]
    fn the_stored_form_of_a_recipient_is_stable() {
        let returned = RecipientTarget::Return(JobId([7; 16]));
        for (target, text) in [
            (
                RecipientTarget::Mailbox("fans".to_owned()),
                r#"{"mailbox":"fans"}"#,
            ),
            (
                returned,
                r#"{"return":"07070707-0707-0707-0707-070707070707"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&target).unwrap(), text);
            assert_eq!(
                serde_json::from_str::<RecipientTarget>(text).unwrap(),
                target
            );
        }
    }

    #[test]
    fn a_record_without_a_verdict_is_read_as_before() {
        let old = r#"{"sender":null,"recipients":[],"peer":{"door":"smtp","ip":null,"helo":"",
            "tls":null},"received_at":1769903999042,"smtputf8":false}"#;
        let mut envelope: Envelope = serde_json::from_str(old).unwrap();
        assert_eq!(envelope.verdict, None);
        assert!(
            !serde_json::to_string(&envelope)
                .unwrap()
                .contains("verdict")
        );
        let mut verdict = Verdict::default();
        verdict.dmarc.result = AuthResult::Pass;
        envelope.verdict = Some(Box::new(verdict));
        let text = serde_json::to_string(&envelope).unwrap();
        assert_eq!(serde_json::from_str::<Envelope>(&text).unwrap(), envelope);
    }
}
