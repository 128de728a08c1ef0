//! Owns the answer to: may this reply stand under the participant's name?
//!
//! Does not know tokens or threads: who holds one and who takes part is told by the caller.

use serde::{Deserialize, Serialize};

use crate::mail::address::Address;
use crate::mail::verdict::Verdict;

/// The identity of a reply's author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// The From domain vouches for the mail, and From is the participant.
    Verified,
    /// A holder of the thread's token. A token leaks with every forwarded mail, so the holder need
    /// not be the participant.
    TokenHolder,
    /// An unknown author.
    Unverified,
}

impl Identity {
    /// The word the Messages API has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::TokenHolder => "token-holder",
            Self::Unverified => "unverified",
        }
    }

    /// The identity of this word of the Messages API.
    pub fn of_name(name: &str) -> Option<Self> {
        let all = [Self::Verified, Self::TokenHolder, Self::Unverified];
        all.into_iter().find(|identity| identity.as_str() == name)
    }
}

/// Judges a reply. `author` is the one address of From ([`HeaderView::author`]), never Reply-To or
/// Sender; `is_participant` says that it is the address the token is bound to, or, without a bound
/// token, the thread's known sender; `has_token` that the envelope carries a valid token.
///
/// [`HeaderView::author`]: crate::mail::view::HeaderView::author
pub fn identity(
    verdict: &Verdict,
    author: Option<&Address>,
    is_participant: bool,
    has_token: bool,
) -> Identity {
    // The verdict must be about this very author: it may have been read from somebody's header.
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
        // H1, and a reply without a token by the thread's known sender.
        assert_eq!(judge(&pass, true, true), Identity::Verified);
        assert_eq!(judge(&pass, true, false), Identity::Verified);
        // H2: somebody else who got hold of the token.
        assert_eq!(judge(&pass, false, true), Identity::TokenHolder);
        assert_eq!(judge(&pass, false, false), Identity::Unverified);
        // H3: the participant's address, but nothing vouches for it.
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
    fn a_verdict_on_another_domain_or_a_broken_from_verifies_nobody() {
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
