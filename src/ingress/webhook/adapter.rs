//! Owns the interface of every provider's adapter, and the fixed facts about a provider.
//!
//! Does not know any single provider.

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

/// Fixed facts about a provider.
#[derive(Clone, Copy, Debug)]
pub struct ProviderInfo {
    /// The name of the provider in the path.
    pub name: &'static str,
    /// Octets of a request body that are always accepted.
    pub body_bytes: usize,
    /// The way a body contains a mail, which determines the length of a body with the longest mail.
    pub carries: Carries,
    /// The statuses by which the provider decides about a retry.
    pub status_policy: StatusPolicy,
}

/// The way a request body contains a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// The body contains no mail, or the provider limits the mail itself.
    Nothing,
    /// The body is the mail.
    Mail,
    /// The mail stands unencoded in the body, beside other fields.
    PlainMail,
    /// The mail stands in the body in base64, or in a shorter form.
    EncodedMail,
    /// The mail stands in the body in base64, and its files a second time.
    EncodedMailAndFiles,
}

impl ProviderInfo {
    /// The maximum length of a body in octets, if a mail may have `mail_bytes_max`.
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
    /// Octets of a body for addresses, field names and similar data.
    const ENVELOPE_BYTES: usize = 1 << 20;

    const fn body_bytes(self, mail: usize) -> usize {
        // Base64 makes four octets of three, and JSON writes each line end with two characters.
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

/// The handling of a provider's requests: pure functions of octets and a time.
pub trait Adapter: fmt::Debug + Send + Sync {
    /// The fixed facts about the provider.
    fn info(&self) -> &'static ProviderInfo;

    /// The name of the provider in the path.
    fn name(&self) -> &'static str {
        self.info().name
    }

    /// True if the request looks like one of this provider. This proves nothing.
    fn is_recognised(&self, request: &WebhookRequest) -> bool;

    /// True if the request only tests the URL.
    fn is_ping(&self, _: &WebhookRequest) -> bool {
        false
    }

    /// Checks the form of a request before its authentication. A refusal must not lose a mail, whoever
    /// sends the request.
    ///
    /// # Errors
    /// The outcome of a request in a form that this provider does not send.
    fn check_form(&self, _: &WebhookRequest) -> Result<(), WebhookOutcome> {
        Ok(())
    }

    /// The URL of the certificate that signed the request, if there is one, with its host checked.
    ///
    /// # Errors
    /// The request cannot be authentic, so that nothing is fetched.
    fn certificate_url(&self, _: &WebhookRequest) -> Result<Option<String>, AuthenticationError> {
        Ok(None)
    }

    /// The proof in the head of a request, before its body is read. A provider that signs its requests has
    /// none.
    ///
    /// # Errors
    /// The reason why the head is not authentic.
    fn prove_head(&self, _: &Headers, _: Option<IpAddr>) -> Result<Proof, AuthenticationError> {
        Err(AuthenticationError::NoMatch)
    }

    /// Verifies that the sender of the request knows one of our secrets.
    ///
    /// # Errors
    /// The reason why the request is not authentic.
    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _now: Timestamp,
        _certificate: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let proof = self.prove_head(request.headers(), request.peer())?;
        Ok(request.authenticated(proof))
    }

    /// The nonce of the request, if its proof does not cover the content.
    ///
    /// # Errors
    /// The request is malformed.
    fn nonce(&self, _: Authentic<'_>) -> Result<Option<Nonce>, Malformed> {
        Ok(None)
    }

    /// Decodes the content of the request.
    ///
    /// # Errors
    /// The request is malformed.
    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_in_base64_fits_with_its_line_ends() {
        for mail in [0usize, 1, 1000, 50 << 20, 1 << 30] {
            let encoded = mail.div_ceil(3) * 4;
            // Postal puts a line end after every sixty characters, and JSON writes it as two.
            let lined = encoded + encoded.div_ceil(60) * 2;
            assert!(Carries::EncodedMail.body_bytes(mail) > lined, "{mail}");
            let both = Carries::EncodedMailAndFiles.body_bytes(mail);
            assert!(both > lined + mail, "{mail}");
        }
        assert_eq!(Carries::PlainMail.body_bytes(usize::MAX), usize::MAX);
    }
}
