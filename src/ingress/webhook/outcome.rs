//! Owns the response to a provider: the statuses by which it retries, the outcome of a request, and the
//! response for both.
//!
//! Does not decide the outcome.

use std::time::Duration;

use serde_json::json;

use super::error::{AuthenticationError, Malformed};
use crate::store::MailId;

/// The statuses by which a provider decides about a retry. Otherwise all providers agree: 2xx means that
/// the mail is accepted, and after 503 with `Retry-After` every one retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPolicy {
    /// The status for a malformed request.
    pub malformed: u16,
    /// The status for a mail without a recipient here.
    pub unroutable: u16,
    /// The status for a request that is not authentic: a wrong secret of ours must not lose a mail.
    pub unauthenticated: u16,
    /// The status for a request that arrives too slowly.
    pub timed_out: u16,
    /// True if the provider sends its name and password only after a 401 with a challenge.
    pub challenges: bool,
}

impl StatusPolicy {
    /// The policy for a provider that retries after any status except 2xx.
    pub const RETRIES_ALL: Self = Self {
        malformed: 400,
        unroutable: 422,
        unauthenticated: 401,
        timed_out: 408,
        challenges: false,
    };
    /// The same policy, for a provider that would retry a mail without recipient for hours.
    pub const RETRIES_FOR_LONG: Self = Self {
        unroutable: 200,
        ..Self::RETRIES_ALL
    };
    /// The policy for a provider that gives up after any 4xx.
    pub const CLIENT_ERRORS_ARE_FINAL: Self = Self {
        malformed: 400,
        unroutable: 200,
        unauthenticated: 503,
        timed_out: 503,
        challenges: false,
    };
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// Mails of the request are on disk.
    Accepted {
        /// The ids of the mails.
        mails: Vec<MailId>,
        /// The number of recipients that were left out, each with a log line.
        dropped: usize,
    },
    /// The request contained no mail.
    Ignored(&'static str),
    /// No recipient of the request is ours; each has a log line.
    Unroutable {
        /// The number of recipients.
        dropped: usize,
    },
    /// The request is malformed.
    Malformed(Malformed),
    /// The request is not authentic.
    Unauthenticated(AuthenticationError),
    /// The request may be accepted later.
    Unavailable(&'static str),
    /// The request is longer than its provider's limit.
    TooLarge,
    /// The body of the request has a content encoding.
    ContentEncoded,
    /// The body has another media type than the named one of the provider.
    MediaType(&'static str),
    /// The request did not arrive in time.
    TimedOut,
    /// There is no provider of this name.
    UnknownProvider,
}

impl WebhookOutcome {
    /// The label of this outcome in the metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "kept",
            Self::Ignored(_) => "nothing",
            Self::Unroutable { .. } => "unroutable",
            Self::Malformed(_) => "malformed",
            Self::Unauthenticated(_) => "unproven",
            Self::Unavailable(_) => "later",
            Self::TooLarge => "too_large",
            Self::ContentEncoded => "encoded",
            Self::MediaType(_) => "media_type",
            Self::TimedOut => "slow",
            Self::UnknownProvider => "unknown",
        }
    }

    /// The response to a provider with this policy.
    pub fn response(&self, policy: StatusPolicy) -> WebhookResponse {
        let (status, code, message) = match self {
            Self::Accepted { mails, dropped } => return WebhookResponse::accepted(mails, *dropped),
            Self::Ignored(what) => return WebhookResponse::ignored(what),
            Self::Unroutable { dropped } => {
                if policy.unroutable == 200 {
                    return WebhookResponse::accepted(&[], *dropped);
                }
                let message = "no recipient is ours".to_owned();
                (policy.unroutable, "no_such_recipient", message)
            }
            Self::Malformed(why) => (policy.malformed, "malformed", why.to_string()),
            Self::Unauthenticated(why) => {
                let status = match why {
                    AuthenticationError::NoAccount if policy.challenges => 401,
                    // A retry of the same request can never be authentic.
                    AuthenticationError::NonceReused => policy.malformed,
                    _ => policy.unauthenticated,
                };
                (status, "unauthorized", why.to_string())
            }
            Self::Unavailable(why) => (503, "unavailable", (*why).to_owned()),
            Self::TooLarge => (413, "too_large", "longer than allowed".to_owned()),
            Self::ContentEncoded => (415, "encoded", "content-encoding: only identity".to_owned()),
            Self::MediaType(taken) => (415, "media_type", format!("content-type: not {taken}")),
            Self::TimedOut => {
                let message = "the request took too long".to_owned();
                (policy.timed_out, "timeout", message)
            }
            Self::UnknownProvider => (404, "not_found", "no such provider".to_owned()),
        };
        let no_account = Self::Unauthenticated(AuthenticationError::NoAccount);
        WebhookResponse {
            status,
            is_challenge: status == 401 && *self == no_account,
            body: json!({ "success": false, "error": { "code": code, "message": message } })
                .to_string(),
        }
    }
}

/// The response to a provider's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookResponse {
    /// The HTTP status.
    pub status: u16,
    /// The body, in JSON.
    pub body: String,
    is_challenge: bool,
}

impl WebhookResponse {
    /// The requested wait before a retry.
    const RETRY_AFTER: Duration = Duration::from_secs(30);

    /// The header fields, besides the common ones.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if self.is_challenge {
            headers.push(("www-authenticate", "Basic realm=\"postern\"".to_owned()));
        }
        if self.status == 503 {
            headers.push(("retry-after", Self::RETRY_AFTER.as_secs().to_string()));
        }
        headers
    }

    fn accepted(mails: &[MailId], dropped: usize) -> Self {
        let mails: Vec<String> = mails.iter().map(ToString::to_string).collect();
        Self::success(&json!({ "mails": mails, "dropped": dropped }))
    }

    fn ignored(what: &str) -> Self {
        Self::success(&json!({ "mails": [], "dropped": 0, "ignored": what }))
    }

    fn success(data: &serde_json::Value) -> Self {
        Self {
            status: 200,
            body: json!({ "success": true, "data": data }).to_string(),
            is_challenge: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_outcomes_are_never_final() {
        for policy in [
            StatusPolicy::RETRIES_ALL,
            StatusPolicy::RETRIES_FOR_LONG,
            StatusPolicy::CLIENT_ERRORS_ARE_FINAL,
        ] {
            let later = WebhookOutcome::Unavailable("no room").response(policy);
            assert_eq!(later.status, 503);
            assert!(later.headers().contains(&("retry-after", "30".to_owned())));
            let wrong = WebhookOutcome::Unauthenticated(AuthenticationError::NoMatch);
            assert!(matches!(wrong.response(policy).status, 401 | 503));
            let slow = WebhookOutcome::TimedOut.response(policy);
            assert!(matches!(slow.status, 408 | 503));
            assert_eq!(WebhookOutcome::TooLarge.response(policy).status, 413);
        }
        let postal = StatusPolicy::CLIENT_ERRORS_ARE_FINAL;
        let wrong = WebhookOutcome::Unauthenticated(AuthenticationError::NoMatch);
        assert_eq!(wrong.response(postal).status, 503);
        let challenged = StatusPolicy {
            challenges: true,
            ..postal
        };
        let challenge = WebhookOutcome::Unauthenticated(AuthenticationError::NoAccount);
        let challenge = challenge.response(challenged);
        assert_eq!(challenge.status, 401);
        let headers = challenge.headers();
        assert!(headers.iter().any(|(name, _)| *name == "www-authenticate"));
    }

    #[test]
    fn an_accepted_request_names_its_mails() {
        let accepted = WebhookOutcome::Accepted {
            mails: vec![MailId(7)],
            dropped: 1,
        };
        let response = accepted.response(StatusPolicy::RETRIES_ALL);
        assert_eq!(response.status, 200);
        assert_eq!(
            response.body,
            r#"{"data":{"dropped":1,"mails":["7"]},"success":true}"#
        );
        let none = WebhookOutcome::Unroutable { dropped: 2 };
        assert_eq!(none.response(StatusPolicy::RETRIES_FOR_LONG).status, 200);
        assert_eq!(none.response(StatusPolicy::RETRIES_ALL).status, 422);
    }
}
