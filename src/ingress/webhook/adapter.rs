//! Owns what every provider's adapter does, and the facts about a provider that no setting changes.
//!
//! Does not know a provider.

use std::fmt;
use std::net::IpAddr;

use super::error::{AuthenticationError, Malformed};
use super::headers::Headers;
use super::incoming::Decoded;
use super::outcome::{StatusPolicy, WebhookOutcome};
use super::proof::Proof;
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::store::Nonce;

/// Facts about a provider: one row of the table that all adapters make up together.
#[derive(Clone, Copy, Debug)]
pub struct ProviderInfo {
    /// Name of the provider, as the path has it.
    pub name: &'static str,
    /// Octets of a request body that are taken in any case.
    pub body_bytes: usize,
    /// The way a body carries a mail, which says how long a body with the longest mail can be.
    pub carries: Carries,
    /// Statuses by which the provider decides whether to try again.
    pub status_policy: StatusPolicy,
}

/// The way a request body carries a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// The body has no mail in it, or the provider bounds the mail itself.
    Nothing,
    /// The body is the mail.
    Mail,
    /// The mail stands in the body as it is, beside other fields.
    PlainMail,
    /// The mail stands in the body in base64, or in another form that is no longer.
    EncodedMail,
    /// The mail stands in the body in base64, and the files of it once more.
    EncodedMailAndFiles,
}

impl ProviderInfo {
    /// Octets of a body at most, where a mail may have `mail_bytes_max`.
    pub const fn body_bytes_max(&self, mail_bytes_max: usize) -> usize {
        let needed = self.carries.body_bytes(mail_bytes_max);
        if needed > self.body_bytes {
            needed
        } else {
            self.body_bytes
        }
    }
}

impl Carries {
    /// Octets of a body for addresses, field names and the like.
    const ENVELOPE_BYTES: usize = 1 << 20;

    const fn body_bytes(self, mail: usize) -> usize {
        // Base64 makes four octets of three, and JSON writes each line end with two letters.
        let encoded = (mail / 5).saturating_mul(7);
        let encoded = encoded.saturating_add(Self::ENVELOPE_BYTES);
        match self {
            Self::Nothing => 0,
            Self::Mail => mail,
            Self::PlainMail => mail.saturating_add(Self::ENVELOPE_BYTES),
            Self::EncodedMail => encoded,
            Self::EncodedMailAndFiles => encoded.saturating_add(mail),
        }
    }
}

/// A provider's requests: pure functions of octets and a time.
pub trait Adapter: fmt::Debug + Send + Sync {
    /// The provider's row.
    fn info(&self) -> &'static ProviderInfo;

    /// Name of the provider, as the path has it.
    fn name(&self) -> &'static str {
        self.info().name
    }

    /// True if the request looks like one of this provider. This proves nothing.
    fn is_recognised(&self, request: &WebhookRequest) -> bool;

    /// True if the request only tests whether the URL answers.
    fn is_ping(&self, _: &WebhookRequest) -> bool {
        false
    }

    /// Checks the form of a request before anybody vouches for it. A refusal must cost no mail,
    /// whoever sends it.
    ///
    /// # Errors
    /// The outcome of a request in a form that this provider does not send.
    fn check_form(&self, _: &WebhookRequest) -> Result<(), WebhookOutcome> {
        Ok(())
    }

    /// The URL of the certificate the request is signed with, where there is one. Its host was checked.
    ///
    /// # Errors
    /// The request cannot be authentic, so that nothing is fetched.
    fn certificate_url(&self, _: &WebhookRequest) -> Result<Option<String>, AuthenticationError> {
        Ok(None)
    }

    /// The proof that the head of a request gives by itself, before its body is read. A provider that signs
    /// its requests gives none.
    ///
    /// # Errors
    /// The reason why the head is not believed.
    fn prove_head(&self, _: &Headers, _: Option<IpAddr>) -> Result<Proof, AuthenticationError> {
        Err(AuthenticationError::NoMatch)
    }

    /// Verifies that somebody who knows a secret of ours sent the request.
    ///
    /// # Errors
    /// The reason why the request is not believed.
    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _now: Timestamp,
        _certificate: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let proof = self.prove_head(request.headers(), request.peer())?;
        Ok(request.authenticated(proof))
    }

    /// The nonce of the request, where its proof does not cover the content.
    ///
    /// # Errors
    /// The request cannot be read.
    fn nonce(&self, _: Authentic<'_>) -> Result<Option<Nonce>, Malformed> {
        Ok(None)
    }

    /// Reads the content of the request.
    ///
    /// # Errors
    /// The request cannot be read.
    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_in_base64_fits_with_its_line_ends() {
        for mail in [0usize, 1, 1000, 50 << 20, 1 << 30] {
            let encoded = mail.div_ceil(3) * 4;
            // Postal puts a line end after every sixty letters, and JSON writes it as two.
            let lined = encoded + encoded.div_ceil(60) * 2;
            assert!(Carries::EncodedMail.body_bytes(mail) > lined, "{mail}");
            let both = Carries::EncodedMailAndFiles.body_bytes(mail);
            assert!(both > lined + mail, "{mail}");
        }
        assert_eq!(Carries::PlainMail.body_bytes(usize::MAX), usize::MAX);
    }
}
