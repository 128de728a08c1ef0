//! Owns the envelope: who sends, who receives, through which door a mail came and what is known of
//! the peer.
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
    /// The reverse-path; `None` is the null sender `<>` (RFC 5321 section 4.5.5), unless it is not known.
    pub sender: Option<Address>,
    /// True if the reverse-path is not known: the door has none, or gave no address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sender_untold: bool,
    /// The recipients, at least one, of which each becomes a delivery of its own.
    pub recipients: Vec<Recipient>,
    /// The peer that handed the mail in.
    pub peer: Peer,
    /// Time at which the mail was received whole.
    pub received_at: Timestamp,
    /// The transaction used SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// The results of the provider that handed the mail in; `None` at every other door.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<ProviderVerdict>,
    /// The verdict on the sender; `None` if nothing was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Box<Verdict>>,
}

/// The results that a provider reports of a mail. Nothing of them was checked here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderVerdict {
    /// The provider's name, as `sendgrid`.
    pub by: String,
    /// The results, in its order. At most [`ProviderVerdict::CHECKS_MAX`].
    pub checks: Vec<ProviderCheck>,
}

impl ProviderVerdict {
    /// Results that are kept at most.
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

/// A recipient, with the meaning its address had when it was accepted.
///
/// The meaning is kept, not looked up again: a key taken out of use between the 250 and the delivery
/// must not lose a mail.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recipient {
    /// The forward-path as the peer gave it.
    pub address: Address,
    /// The name of the route whose domain it is.
    pub route: String,
    /// The meaning of the address.
    pub target: RecipientTarget,
}

/// The meaning of a recipient's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipientTarget {
    /// A mailbox by its name: threads are found by headers, or begun.
    Mailbox(String),
    /// A verified token: the thread is known.
    Thread(Claims),
    /// A verified return path: a mail of ours came back, or a report on it did.
    Return(JobId),
}

/// The peer that handed a mail in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The door it came through.
    pub door: Door,
    /// The address of the peer; `None` on a unix socket and where the door does not tell.
    pub ip: Option<IpAddr>,
    /// The name given in EHLO, HELO or LHLO, as it came; empty where the door has no such thing.
    pub helo: String,
    /// The TLS version and cipher suite, where the connection had TLS.
    pub tls: Option<String>,
}

/// The ways a mail gets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// A mailbox that is polled.
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
    fn what_an_address_stands_for_keeps_its_form_on_disk() {
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
