//! Owns the acceptance of a fetched mail: its recipients, its envelope, and the verdict on its sender.
//!
//! Does not communicate with the server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::transport::ImapFault;
use crate::auth::{self, Authenticator};
use crate::clock;
use crate::ingress::accept::{AcceptedVia, accept, envelope_without_dialogue};
use crate::ingress::routes::{Routes, Unroutable};
use crate::mail::address::Address;
use crate::mail::envelope::{Door, Envelope, Recipient, RecipientTarget};
use crate::mail::view::HeaderView;
use crate::store::{RECIPIENTS_MAX, Store, StoreError};

/// The maximum number of addresses of one mail that are examined.
const ADDRESSES_MAX: usize = 600;

/// The parts for accepting mails.
pub(super) struct ImapIntake {
    pub(super) store: Store,
    pub(super) routes: Arc<Routes>,
    pub(super) auth: Option<Arc<Authenticator>>,
    pub(super) store_max: Duration,
    /// The user who logs in: the last resort as recipient, for a route with a catch-all.
    pub(super) user: String,
}

/// The recipients of a mail, from its header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The mail has these recipients.
    Ours(Vec<Recipient>),
    /// The mail has no recipient here; the text is the reason in metrics.
    NotOurs(&'static str),
}

impl ImapIntake {
    /// Finds the recipients of a mail in its header, because there is no envelope.
    pub(super) async fn find_recipients(&self, bytes: &[u8]) -> Result<Ownership, StoreError> {
        let now = clock::now();
        let mut found: Vec<Recipient> = Vec::new();
        let mut why = "not_ours";
        let addresses = HeaderView::parse(bytes).recipients();
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            match self.routes.resolve(&self.store, address, now).await {
                Ok(recipient) => {
                    let same = |known: &&Recipient| {
                        (&known.route, &known.target) == (&recipient.route, &recipient.target)
                    };
                    if found.len() < RECIPIENTS_MAX && !found.iter().any(|known| same(&known)) {
                        found.push(recipient);
                    }
                }
                Err(Unroutable::Store(error)) => return Err(error),
                Err(error) => why = more_specific_reason(why, error),
            }
        }
        let chosen = choose_recipients(found);
        if !chosen.is_empty() {
            return Ok(Ownership::Ours(chosen));
        }
        // An invalid address of ours must not be treated like a foreign one.
        match self.catch_all_recipient().filter(|_| why == "not_ours") {
            Some(recipient) => Ok(Ownership::Ours(vec![recipient])),
            None => Ok(Ownership::NotOurs(why)),
        }
    }

    /// Stores a mail.
    pub(super) async fn accept(&self, to: Vec<Recipient>, bytes: Bytes) -> Result<(), ImapFault> {
        let (sender, sender_untold) = envelope_sender(&bytes);
        let auth = self.auth.as_ref();
        let envelope = Envelope {
            sender_untold,
            verdict: auth.map(|auth| Box::new(auth.relay_verdict(&bytes))),
            ..envelope_without_dialogue(Door::Imap, sender, to, clock::now())
        };
        let via = AcceptedVia::default();
        accept(&self.store, self.store_max, envelope, bytes, via).await?;
        Ok(())
    }

    /// The recipient of a mail without an address of ours: the catch-all, if a route has one.
    fn catch_all_recipient(&self) -> Option<Recipient> {
        let mut routes = self.routes.iter();
        let (route, mailbox) = routes.find_map(|route| Some((route, route.catch_all.as_ref()?)))?;
        let by_domain = || format!("{mailbox}@{}", route.domains[0]);
        let address = Address::parse(&self.user).or_else(|_| Address::parse(&by_domain()));
        Some(Recipient {
            address: address.ok()?,
            route: route.name.clone(),
            target: RecipientTarget::Mailbox(mailbox.clone()),
        })
    }
}

/// The recipients for whom the mail was sent, of all in its header. If there is a token, a mailbox only
/// shows where the server filed the mail; a catch-all address counts even less.
fn choose_recipients(mut found: Vec<Recipient>) -> Vec<Recipient> {
    let is_signed = |to: &Recipient| match to.target {
        RecipientTarget::Thread(_) | RecipientTarget::Return(_) => true,
        RecipientTarget::Mailbox(_) => false,
    };
    let is_named = |to: &Recipient| match &to.target {
        RecipientTarget::Mailbox(name) => name.eq_ignore_ascii_case(to.address.local()),
        RecipientTarget::Thread(_) | RecipientTarget::Return(_) => false,
    };
    if found.iter().any(is_signed) {
        found.retain(is_signed);
    } else if found.iter().any(is_named) {
        found.retain(is_named);
    } else {
        found.truncate(1);
    }
    found
}

/// The reverse-path that the delivering server recorded (RFC 5321 section 4.4), or else the author's
/// address. Without either it is unknown (true), which is not the null sender.
fn envelope_sender(bytes: &[u8]) -> (Option<Address>, bool) {
    let view = HeaderView::parse(bytes);
    match view.header("Return-Path").map(str::trim) {
        Some("<>") => (None, false),
        Some(path) if let Ok(path) = Address::parse(path.trim_matches(['<', '>'])) => {
            (Some(path), false)
        }
        _ => {
            let author = auth::author(bytes).ok();
            let is_untold = author.is_none();
            (author, is_untold)
        }
    }
}

/// The more specific of two reasons.
const fn more_specific_reason(known: &'static str, error: Unroutable) -> &'static str {
    match error {
        Unroutable::Expired => "expired",
        Unroutable::Forged => "forged",
        Unroutable::NotYetValid => "not_yet_valid",
        Unroutable::Revoked => "revoked",
        Unroutable::Foreign | Unroutable::Store(_) | Unroutable::Unknown => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(address: &str, target: RecipientTarget) -> Recipient {
        Recipient {
            address: Address::parse(address).unwrap(),
            route: "a".to_owned(),
            target,
        }
    }

    fn mailbox(name: &str) -> RecipientTarget {
        RecipientTarget::Mailbox(name.to_owned())
    }

    #[test]
    fn a_mailbox_counts_more_than_a_catch_all() {
        let found = vec![
            to("inbox@in.example", mailbox("general")),
            to("fans@in.example", mailbox("fans")),
            to("General@in.example", mailbox("general")),
        ];
        let names = |chosen: Vec<Recipient>| {
            let names = chosen.iter().map(|to| to.address.to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            names(choose_recipients(found.clone())),
            "fans@in.example General@in.example"
        );
        assert_eq!(
            names(choose_recipients(found[..1].to_vec())),
            "inbox@in.example"
        );
        let odd = vec![found[0].clone(), to("x@in.example", mailbox("other"))];
        assert_eq!(names(choose_recipients(odd)), "inbox@in.example");
        assert!(choose_recipients(Vec::new()).is_empty());
    }

    #[test]
    fn the_sender_is_the_return_path_or_the_author() {
        for (header, wanted) in [
            (
                "Return-Path: <bounce@a.example>\r\nFrom: b@b.example\r\n",
                "bounce@a.example",
            ),
            ("Return-Path: <>\r\nFrom: b@b.example\r\n", ""),
            (
                "Return-Path: (none)\r\nFrom: b@b.example\r\n",
                "b@b.example",
            ),
            ("From: B <b@b.example>\r\n", "b@b.example"),
            ("From: b@b.example, c@c.example\r\n", "untold"),
            ("", "untold"),
        ] {
            let (found, is_untold) = envelope_sender(format!("{header}\r\nhi\r\n").as_bytes());
            let found = found.map(|address| address.to_string());
            let found = found.unwrap_or_else(|| match is_untold {
                true => "untold".to_owned(),
                false => String::new(),
            });
            assert_eq!(found, wanted, "{header}");
        }
    }
}
