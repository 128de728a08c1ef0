//! Owns what a provider hears: its retry law, the outcome of a request, and the response made of both.
//!
//! Does not decide the outcome.

use std::time::Duration;

use serde_json::json;

use super::incoming::Malformed;
use super::proof::AuthenticationError;
use crate::store::MailId;

/// Which status a provider takes for what. The rest is the same for all: 2xx is yes, and 503 with
/// `Retry-After` is asked again by every one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPolicy {
    /// For what will never be read.
    pub malformed: u16,
    /// For a mail that is for nobody here.
    pub unroutable: u16,
    /// For a request nobody vouches for: a wrong secret of ours must not cost a mail.
    pub unauthenticated: u16,
    /// For a request that comes too slowly.
    pub timed_out: u16,
    /// Without a name and password it hears 401 with a challenge, and only then sends them.
    pub challenges: bool,
}

impl StatusPolicy {
    /// A provider that comes again after any status but 2xx.
    pub const RETRIES_ALL: Self = Self {
        malformed: 400,
        unroutable: 422,
        unauthenticated: 401,
        timed_out: 408,
        challenges: false,
    };
    /// The same, where it would come again for hours with a mail for nobody.
    pub const RETRIES_FOR_LONG: Self = Self {
        unroutable: 200,
        ..Self::RETRIES_ALL
    };
    /// A provider that takes every 4xx for the last word.
    pub const CLIENT_ERRORS_ARE_FINAL: Self = Self {
        malformed: 400,
        unroutable: 200,
        unauthenticated: 503,
        timed_out: 503,
        challenges: false,
    };
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// Its mails are on the disk. `dropped` recipients are nobody's here.
    Accepted {
        /// Their names.
        mails: Vec<MailId>,
        /// Recipients that were left out, each with a line in the log.
        dropped: usize,
    },
    /// It was about no mail.
    Ignored(&'static str),
    /// All its recipients are nobody's here; each has its line in the log.
    Unroutable {
        /// How many.
        dropped: usize,
    },
    /// It will never be read.
    Malformed(Malformed),
    /// Nobody vouches for it.
    Unauthenticated(AuthenticationError),
    /// It may be taken later.
    Unavailable(&'static str),
    /// It is longer than the provider's requests may be.
    TooLarge,
    /// Its body is encoded.
    ContentEncoded,
    /// Its body is of another media type than this door takes, which is named.
    MediaType(&'static str),
    /// It did not come in time.
    TimedOut,
    /// There is no such door.
    UnknownProvider,
}

impl WebhookOutcome {
    /// One word for the metrics.
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

    /// What the provider hears by its law.
    pub fn response(&self, law: StatusPolicy) -> WebhookResponse {
        let (status, code, message) = match self {
            Self::Accepted { mails, dropped } => return WebhookResponse::accepted(mails, *dropped),
            Self::Ignored(what) => return WebhookResponse::ignored(what),
            Self::Unroutable { dropped } => {
                if law.unroutable == 200 {
                    return WebhookResponse::accepted(&[], *dropped);
                }
                (
                    law.unroutable,
                    "no_such_recipient",
                    "no recipient is ours".to_owned(),
                )
            }
            Self::Malformed(why) => (law.malformed, "malformed", why.to_string()),
            Self::Unauthenticated(AuthenticationError::NoAccount) if law.challenges => (
                401,
                "unauthorized",
                AuthenticationError::NoAccount.to_string(),
            ),
            Self::Unauthenticated(AuthenticationError::NonceReused) => {
                // Whoever asks again with it will never be believed.
                (
                    law.malformed,
                    "unauthorized",
                    AuthenticationError::NonceReused.to_string(),
                )
            }
            Self::Unauthenticated(why) => (law.unauthenticated, "unauthorized", why.to_string()),
            Self::Unavailable(why) => (503, "unavailable", (*why).to_owned()),
            Self::TooLarge => (413, "too_large", "longer than is taken".to_owned()),
            Self::ContentEncoded => (415, "encoded", "content-encoding: only identity".to_owned()),
            Self::MediaType(taken) => (415, "media_type", format!("content-type: not {taken}")),
            Self::TimedOut => (
                law.timed_out,
                "timeout",
                "the request took too long".to_owned(),
            ),
            Self::UnknownProvider => (404, "not_found", "no such provider here".to_owned()),
        };
        WebhookResponse {
            status,
            is_challenge: status == 401
                && *self == Self::Unauthenticated(AuthenticationError::NoAccount),
            body: json!({ "success": false, "error": { "code": code, "message": message } })
                .to_string(),
        }
    }
}

/// What a provider hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookResponse {
    /// The HTTP status.
    pub status: u16,
    /// The body, JSON.
    pub body: String,
    is_challenge: bool,
}

impl WebhookResponse {
    /// How long a provider is asked to wait.
    const RETRY_AFTER: Duration = Duration::from_secs(30);

    /// The header fields, besides those every response has.
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

    fn success(said: &serde_json::Value) -> Self {
        Self {
            status: 200,
            body: json!({ "success": true, "data": said }).to_string(),
            is_challenge: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_never_final() {
        for law in [
            StatusPolicy::RETRIES_ALL,
            StatusPolicy::RETRIES_FOR_LONG,
            StatusPolicy::CLIENT_ERRORS_ARE_FINAL,
        ] {
            let later = WebhookOutcome::Unavailable("no room").response(law);
            assert_eq!(later.status, 503);
            assert!(later.headers().contains(&("retry-after", "30".to_owned())));
            assert!(matches!(
                WebhookOutcome::Unauthenticated(AuthenticationError::NoMatch)
                    .response(law)
                    .status,
                401 | 503
            ));
            assert!(matches!(
                WebhookOutcome::TimedOut.response(law).status,
                408 | 503
            ));
            assert_eq!(WebhookOutcome::TooLarge.response(law).status, 413);
        }
        let postal = StatusPolicy::CLIENT_ERRORS_ARE_FINAL;
        assert_eq!(
            WebhookOutcome::Unauthenticated(AuthenticationError::NoMatch)
                .response(postal)
                .status,
            503
        );
        let challenged = StatusPolicy {
            challenges: true,
            ..postal
        };
        let challenge =
            WebhookOutcome::Unauthenticated(AuthenticationError::NoAccount).response(challenged);
        assert_eq!(challenge.status, 401);
        assert!(
            challenge
                .headers()
                .iter()
                .any(|(name, _)| *name == "www-authenticate")
        );
    }

    #[test]
    fn a_yes_names_what_was_kept() {
        let kept = WebhookOutcome::Accepted {
            mails: vec![MailId(7)],
            dropped: 1,
        };
        let response = kept.response(StatusPolicy::RETRIES_ALL);
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
