//! Owns the routes: our domains, and the meaning of the addresses in them.
//!
//! Does not choose a client's response, nor the thread of a mail without a token.

use std::collections::HashMap;

use thiserror::Error;

use crate::auth::{AuthPolicy, PolicyDecision, PolicyRefusal, identity};
use crate::clock::Timestamp;
use crate::mail::address::{Address, AddressError, Domain};
use crate::mail::envelope::{Recipient, RecipientTarget};
use crate::mail::job_id::{is_return_path_form, job_of_return_path};
use crate::mail::token::{Claims, KeyRing, ThreadKey, TokenError};
use crate::mail::verdict::Verdict;
use crate::smtp::response::Refusal;
use crate::store::{Store, StoreError};

/// The default mailbox for a postmaster's mail.
pub const POSTMASTER_MAILBOX: &str = "general";

/// All routes, by domain.
pub struct Routes {
    list: Vec<Route>,
    by_domain: HashMap<Domain, usize>,
    /// The server's own postmaster.
    postmaster: Address,
}

/// A reply domain, or several equivalent ones, with its keys and mailboxes.
pub struct Route {
    /// The name that is stored with every mail of this route.
    pub name: String,
    /// The domains of this route; at least one, and none of another route.
    pub domains: Vec<Domain>,
    /// The keys for verifying its tokens.
    pub keys: KeyRing,
    /// The local parts that are mailboxes, which are also their names. Case is ignored.
    pub mailboxes: Vec<String>,
    /// The mailbox for every other local part; `None` refuses those.
    pub catch_all: Option<String>,
    /// The mailbox for `postmaster` (RFC 5321 section 4.5.1).
    pub postmaster: String,
    /// The policy for mail whose sender is not verified.
    pub policy: AuthPolicy,
}

impl Routes {
    /// Creates the routes. The first one is the default: it has the postmaster of `hostname`, the server's
    /// own name.
    ///
    /// # Errors
    /// There is no route, a route has no domain, or two routes have the same domain.
    pub fn new(list: Vec<Route>, hostname: &Domain) -> Result<Self, RoutesError> {
        if list.is_empty() {
            return Err(RoutesError::Empty);
        }
        let mut by_domain = HashMap::new();
        for (at, route) in list.iter().enumerate() {
            if route.domains.is_empty() {
                return Err(RoutesError::NoDomain(route.name.clone()));
            }
            for domain in &route.domains {
                if by_domain.insert(domain.clone(), at).is_some() {
                    return Err(RoutesError::DomainTwice(domain.clone()));
                }
            }
        }
        Ok(Self {
            list,
            by_domain,
            postmaster: Address::parse(&format!("postmaster@{hostname}"))
                .map_err(RoutesError::Hostname)?,
        })
    }

    /// The routes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.list.iter()
    }

    /// The route of this domain.
    pub fn by_domain(&self, domain: &Domain) -> Option<&Route> {
        self.by_domain.get(domain).map(|at| &self.list[*at])
    }

    /// The route of this name.
    pub fn by_name(&self, name: &str) -> Option<&Route> {
        self.list.iter().find(|route| route.name == name)
    }

    /// The recipient that `address` means: a thread by its verified token, a mail of ours by its verified
    /// return path, or a mailbox. `store` knows revoked tokens and those whose case was lost.
    ///
    /// # Errors
    /// The reason why the address is refused.
    pub async fn resolve(
        &self,
        store: &Store,
        address: Address,
        now: Timestamp,
    ) -> Result<Recipient, Unroutable> {
        self.resolve_with(Some(store), address, now).await
    }

    /// Like [`Routes::resolve`]; without a store no token counts as revoked, and a lower-cased token is
    /// unknown.
    ///
    /// # Errors
    /// The reason why the address is refused.
    pub async fn resolve_with(
        &self,
        store: Option<&Store>,
        address: Address,
        now: Timestamp,
    ) -> Result<Recipient, Unroutable> {
        let (route, target) = self.target(store, &address, now).await?;
        Ok(Recipient {
            route: route.name.clone(),
            target,
            address,
        })
    }

    /// The recipient of mail to `<postmaster>`, which every server must accept (RFC 5321 section 4.5.1).
    pub fn postmaster(&self) -> Recipient {
        let route = &self.list[0];
        Recipient {
            address: self.postmaster.clone(),
            route: route.name.clone(),
            target: RecipientTarget::Mailbox(route.postmaster.clone()),
        }
    }

    /// The policy's decision about a mail for this recipient, by its sender. `author` is the single address
    /// of its From field.
    /// # Errors
    /// The store has no answer about the thread.
    pub async fn apply_policy(
        &self,
        store: &Store,
        recipient: &Recipient,
        verdict: &Verdict,
        author: Option<&Address>,
    ) -> Result<PolicyDecision, StoreError> {
        // A recipient without a known route uses the policy of the default route.
        let route = self.by_name(&recipient.route).unwrap_or(&self.list[0]);
        // A notice authenticates no author, and other mail to a return path is never posted.
        if matches!(recipient.target, RecipientTarget::Return(_)) {
            return Ok(PolicyDecision::Accept);
        }
        let has_token = matches!(recipient.target, RecipientTarget::Thread(_));
        let takes_part = match author {
            Some(author) => {
                route
                    .is_participant(store, &recipient.target, author)
                    .await?
            }
            None => false,
        };
        let identity = identity(verdict, author, takes_part, has_token);
        Ok(route.policy.decide(verdict, identity))
    }

    async fn target(
        &self,
        store: Option<&Store>,
        address: &Address,
        now: Timestamp,
    ) -> Result<(&Route, RecipientTarget), Unroutable> {
        let postmaster = address.local().eq_ignore_ascii_case("postmaster");
        let Some(route) = self.by_domain(address.domain()) else {
            if postmaster && address.domain() == self.postmaster.domain() {
                let route = &self.list[0];
                return Ok((route, RecipientTarget::Mailbox(route.postmaster.clone())));
            }
            return Err(Unroutable::Foreign);
        };
        if postmaster {
            return Ok((route, RecipientTarget::Mailbox(route.postmaster.clone())));
        }
        if is_return_path_form(address) {
            let job = job_of_return_path(&route.keys, address.domain(), address);
            return match job {
                Some(job) => Ok((route, RecipientTarget::Return(job))),
                None => Err(Unroutable::Forged),
            };
        }
        let target = match route.keys.verify(address, now) {
            Ok(claims) => RecipientTarget::Thread(ensure_not_revoked(store, claims).await?),
            Err(TokenError::Absent) => RecipientTarget::Mailbox(route.mailbox(address.local())?),
            Err(TokenError::CaseLost(digest)) => {
                RecipientTarget::Thread(claims_by_digest(store, &route.keys, digest, now).await?)
            }
            Err(TokenError::Expired) => return Err(Unroutable::Expired),
            Err(TokenError::NotYetValid) => return Err(Unroutable::NotYetValid),
            Err(TokenError::Forged) => return Err(Unroutable::Forged),
        };
        Ok((route, target))
    }
}

impl Route {
    /// True if `author` is the person for whom the token was minted, or else the thread's known sender. For
    /// a mail without a token the thread is determined later, and the check is repeated: until then the
    /// thread may be the author's.
    async fn is_participant(
        &self,
        store: &Store,
        target: &RecipientTarget,
        author: &Address,
    ) -> Result<bool, StoreError> {
        let RecipientTarget::Thread(claims) = target else {
            return Ok(true);
        };
        if claims.participant.is_some() {
            return Ok(self.keys.is_participant(claims, author));
        }
        let known = match store.thread(&self.name, claims.thread).await {
            // The participant is unknown, so the author does not count as the participant.
            Err(StoreError::Damaged) => None,
            found => found?,
        };
        let participant = known.and_then(|mapping| mapping.participant);
        Ok(participant.is_some_and(|known| known.folded() == author.folded()))
    }

    fn mailbox(&self, local: &str) -> Result<String, Unroutable> {
        let named = |name: &&String| name.eq_ignore_ascii_case(local);
        if let Some(name) = self.mailboxes.iter().find(named) {
            return Ok(name.clone());
        }
        // Hidden source routes (RFC 5321 section 3.9.1 and appendix F.2 describe the `%` and `!` hacks). A
        // catch-all must not look like a relay that follows them.
        if local.contains(['%', '!', '@']) {
            return Err(Unroutable::Foreign);
        }
        self.catch_all.clone().ok_or(Unroutable::Unknown)
    }
}

/// The reason why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unroutable {
    /// The token is ours, but has expired.
    #[error("token expired")]
    Expired,
    /// The address has a token's form, but no key of the route signed it.
    #[error("token forged")]
    Forged,
    /// The domain of the address is not ours, or the address asks for relaying to another one.
    #[error("domain not ours")]
    Foreign,
    /// A token of ours, minted ahead of our clock.
    #[error("token not valid yet")]
    NotYetValid,
    /// The token was revoked.
    #[error("token revoked")]
    Revoked,
    /// The store is needed for the decision, and has no answer.
    #[error("the store has no answer")]
    Store(#[from] StoreError),
    /// The domain is ours, but the address is neither a token nor a mailbox.
    #[error("no such mailbox")]
    Unknown,
}

impl From<Unroutable> for Refusal {
    fn from(error: Unroutable) -> Self {
        match error {
            Unroutable::Expired => Self::TokenExpired,
            Unroutable::Forged => Self::TokenForged,
            Unroutable::Foreign => Self::RelayDenied,
            Unroutable::NotYetValid => Self::TokenNotYetValid,
            Unroutable::Revoked => Self::TokenRevoked,
            Unroutable::Store(_) => Self::StoreUnavailable,
            Unroutable::Unknown => Self::RecipientUnknown,
        }
    }
}

/// The response to a mail that the policy of its route refuses.
pub const fn policy_response(refusal: PolicyRefusal) -> Refusal {
    match refusal {
        PolicyRefusal::BadFrom(_) => Refusal::AuthorUnclear,
        PolicyRefusal::DmarcReject => Refusal::AuthenticationFailed,
        PolicyRefusal::Identity(_) => Refusal::AuthorUnverified,
    }
}

/// The reason why routes are invalid.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RoutesError {
    /// Two routes have this domain, or one has it twice.
    #[error("{0}: domain in two routes")]
    DomainTwice(Domain),
    /// There is no route at all.
    #[error("no route")]
    Empty,
    /// The server's name is invalid in an address.
    #[error("host name")]
    Hostname(#[source] AddressError),
    /// The route of this name has no domain.
    #[error("route {0}: no domain")]
    NoDomain(String),
}

async fn ensure_not_revoked(store: Option<&Store>, claims: Claims) -> Result<Claims, Unroutable> {
    let Some(store) = store else {
        return Ok(claims);
    };
    if store.is_revoked(claims.digest).await? {
        return Err(Unroutable::Revoked);
    }
    Ok(claims)
}

/// Verifies a lower-cased token by its digest, because its signature cannot be checked: only people who
/// received the token can know it. It expires like the original.
async fn claims_by_digest(
    store: Option<&Store>,
    keys: &KeyRing,
    digest: [u8; 16],
    now: Timestamp,
) -> Result<Claims, Unroutable> {
    let store = store.ok_or(Unroutable::Forged)?;
    if store.is_revoked(digest).await? {
        return Err(Unroutable::Revoked);
    }
    let minted = store.issued_token(digest).await?;
    let (thread_id, issued_at) = minted.ok_or(Unroutable::Forged)?;
    if keys.is_expired(issued_at, now) {
        return Err(Unroutable::Expired);
    }
    Ok(Claims {
        thread: ThreadKey::of(&thread_id),
        thread_id: Some(thread_id),
        is_hash: false,
        issued_at,
        participant: None,
        digest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::job_id::{JobId, return_path};
    use crate::store::ask::wait;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn route(name: &str, domains: &[&str]) -> Route {
        Route {
            name: name.to_owned(),
            domains: domains.iter().map(|text| domain(text)).collect(),
            keys: KeyRing::new(vec![(1, vec![7; 32])], KeyRing::LIFETIME).unwrap(),
            mailboxes: vec!["Fans".to_owned()],
            catch_all: None,
            postmaster: POSTMASTER_MAILBOX.to_owned(),
            policy: AuthPolicy::default(),
        }
    }

    fn routes(list: Vec<Route>) -> Result<Routes, RoutesError> {
        Routes::new(list, &domain("mx.example.com"))
    }

    #[test]
    fn a_domain_has_one_route() {
        let built = routes(vec![
            route("a", &["in.example.com", "bücher.example"]),
            route("b", &["b.example.com"]),
        ])
        .unwrap();
        let name = |text| built.by_domain(&domain(text)).map(|r| r.name.as_str());
        assert_eq!(name("IN.example.COM"), Some("a"));
        assert_eq!(name("xn--bcher-kva.example"), Some("a"));
        assert_eq!(name("b.example.com"), Some("b"));
        assert_eq!(name("sub.b.example.com"), None);
        assert_eq!(name("mx.example.com"), None);
        assert_eq!(built.by_name("b").map(|r| r.domains.len()), Some(1));
        let postmaster = built.postmaster();
        assert_eq!(postmaster.address.to_string(), "postmaster@mx.example.com");
        assert_eq!(postmaster.route, "a");
    }

    #[test]
    fn ambiguous_routes_are_refused() {
        let error = |list| routes(list).err();
        assert_eq!(error(Vec::new()), Some(RoutesError::Empty));
        assert_eq!(
            error(vec![route("a", &[])]),
            Some(RoutesError::NoDomain("a".to_owned()))
        );
        let twice = vec![route("a", &["x.example"]), route("b", &["X.example"])];
        let at = domain("x.example");
        assert_eq!(error(twice), Some(RoutesError::DomainTwice(at)));
    }

    #[test]
    fn a_return_path_is_ours_or_forged() {
        let folder = tempfile::tempdir().unwrap();
        let settings = crate::store::Settings::new(folder.path().to_owned());
        let store = Store::open(settings, Timestamp::default()).unwrap();
        let mut catching = route("a", &["in.example.com"]);
        catching.catch_all = Some("general".to_owned());
        let built = routes(vec![catching, route("b", &["b.example.com"])]).unwrap();
        let target = |text: &str| {
            let address = Address::parse(text).unwrap();
            let found = wait(built.resolve(&store, address, Timestamp::default()));
            found.map(|recipient| recipient.target)
        };
        let job = JobId([9; 16]);
        let keys = &built.by_name("a").unwrap().keys;
        let path = return_path(keys, &domain("in.example.com"), job).unwrap();
        let (local, path) = (path.local().to_owned(), path.to_string());
        let dashed = path.replacen('+', "-", 1);
        for ours in [&path, &path.to_uppercase(), &dashed] {
            assert_eq!(target(ours), Ok(RecipientTarget::Return(job)), "{ours}");
        }
        let last = if path.contains("a@") { "b@" } else { "a@" };
        let at = local.len() - 1;
        for forged in [
            format!("{}{last}in.example.com", &local[..at]),
            format!("{local}@b.example.com"),
            "bounce+x@in.example.com".to_owned(),
            "bounce+@in.example.com".to_owned(),
        ] {
            assert_eq!(target(&forged), Err(Unroutable::Forged), "{forged}");
        }
        let mailbox = RecipientTarget::Mailbox("general".to_owned());
        for other in ["bounce@in.example.com", "bounce-team@in.example.com"] {
            assert_eq!(target(other), Ok(mailbox.clone()), "{other}");
        }
    }

    #[test]
    fn a_catch_all_is_not_a_relay() {
        let mut route = route("a", &["in.example.com"]);
        assert_eq!(route.mailbox("fANS").as_deref(), Ok("Fans"));
        assert_eq!(route.mailbox("nobody"), Err(Unroutable::Unknown));
        assert_eq!(route.mailbox("a%b.example"), Err(Unroutable::Foreign));
        route.catch_all = Some("general".to_owned());
        assert_eq!(route.mailbox("nobody").as_deref(), Ok("general"));
        for local in ["a%b.example", "b.example!a", "a@b.example"] {
            assert_eq!(route.mailbox(local), Err(Unroutable::Foreign));
        }
    }
}
