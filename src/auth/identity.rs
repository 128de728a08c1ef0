//! Owns the decision whether a reply may appear under the participant's name.
//!
//! Does not know tokens or threads: the caller supplies the facts.

use serde::{Deserialize, Serialize};

use crate::mail::address::Address;
use crate::mail::verdict::Verdict;

/// The identity of a reply's author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// The From domain vouches for the mail, and From is the participant.
    Verified,
    /// The author has a token of the thread. A token leaks with every forwarded mail, so the author need
    /// not be the participant.
    TokenHolder,
    /// An unknown author.
    Unverified,
}

impl Identity {
    /// The name in the Messages API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::TokenHolder => "token-holder",
            Self::Unverified => "unverified",
        }
    }

    /// The identity of this name in the Messages API.
    pub fn of_name(name: &str) -> Option<Self> {
        let all = [Self::Verified, Self::TokenHolder, Self::Unverified];
        all.into_iter().find(|identity| identity.as_str() == name)
    }
}

/// Decides the identity of a reply. `author` is the single address of From ([`HeaderView::author`]), never
/// Reply-To or Sender; `is_participant` is true if it is the address bound to the token or, without a bound
/// token, the thread's known sender; `has_token` is true if the envelope has a valid token.
///
/// [`HeaderView::author`]: crate::mail::view::HeaderView::author
pub fn identity(
    verdict: &Verdict,
    author: Option<&Address>,
    is_participant: bool,
    has_token: bool,
) -> Identity {
    // The verdict must be about this author: it may have been read from another header.
    let is_vouched_for = author.is_some_and(|author| {
        verdict.is_aligned()
            && verdict
                .dmarc
                .domain
                .as_deref()
                .is_some_and(|domain| domain.eq_ignore_ascii_case(&author.domain().ascii()))
    });
    match (is_vouched_for && is_participant, has_token) {
        (true, _) => Identity::Verified,
        (false, true) => Identity::TokenHolder,
        (false, false) => Identity::Unverified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::verdict::{AuthResult, DmarcVerdict, FromProblem};

    fn verdict(result: AuthResult, domain: &str) -> Verdict {
        Verdict {
            dmarc: DmarcVerdict {
                result,
                domain: Some(domain.to_owned()),
                ..DmarcVerdict::default()
            },
            ..Verdict::default()
        }
    }

    #[test]
    fn only_an_aligned_participant_is_verified() {
        let ann = Address::parse("ann@example.com").unwrap();
        let pass = verdict(AuthResult::Pass, "example.com");
        let judge = |verdict: &Verdict, is_participant, has_token| {
            identity(verdict, Some(&ann), is_participant, has_token)
        };
        // A verified reply with a token, and one without by the thread's known sender.
        assert_eq!(judge(&pass, true, true), Identity::Verified);
        assert_eq!(judge(&pass, true, false), Identity::Verified);
        // Another person who obtained the token.
        assert_eq!(judge(&pass, false, true), Identity::TokenHolder);
        assert_eq!(judge(&pass, false, false), Identity::Unverified);
        // The participant's address without authentication.
        for result in [
            AuthResult::None,
            AuthResult::Fail,
            AuthResult::Softfail,
            AuthResult::Neutral,
            AuthResult::Policy,
            AuthResult::Temperror,
            AuthResult::Permerror,
        ] {
            let verdict = verdict(result, "example.com");
            assert_eq!(judge(&verdict, true, true), Identity::TokenHolder);
            assert_eq!(judge(&verdict, true, false), Identity::Unverified);
        }
    }

    #[test]
    fn a_verdict_on_another_domain_or_a_broken_from_is_unverified() {
        let ann = Address::parse("ann@example.com").unwrap();
        let other = verdict(AuthResult::Pass, "evil.example");
        assert_eq!(
            identity(&other, Some(&ann), true, true),
            Identity::TokenHolder
        );
        let mut broken = verdict(AuthResult::Pass, "example.com");
        assert_eq!(identity(&broken, None, true, true), Identity::TokenHolder);
        broken.from_problem = Some(FromProblem::SeveralFields);
        assert_eq!(
            identity(&broken, Some(&ann), true, true),
            Identity::TokenHolder
        );
    }

    #[test]
    fn domains_are_compared_as_names() {
        let ann = Address::parse("ann@BÜCHER.example").unwrap();
        let pass = verdict(AuthResult::Pass, "xn--bcher-kva.example");
        assert_eq!(identity(&pass, Some(&ann), true, true), Identity::Verified);
    }
}
