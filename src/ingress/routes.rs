//! Owns the routes: the domains that are ours, and the meaning of an address at one of them.
//!
//! Does not decide a client's response, nor the thread of a mail without a token.

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

/// The mailbox a route files mail for its postmaster under, where nothing else is configured.
pub const POSTMASTER_MAILBOX: &str = "general";

/// All routes, found by the domain of an address.
pub struct Routes {
    list: Vec<Route>,
    by_domain: HashMap<Domain, usize>,
    /// The server's own postmaster.
    postmaster: Address,
}

/// One reply domain (or several that mean the same) with its keys and mailboxes.
pub struct Route {
    /// The name that is kept with every mail of this route.
    pub name: String,
    /// The domains whose addresses are this route's. At least one; no other route has them.
    pub domains: Vec<Domain>,
    /// The keys that its tokens are verified with.
    pub keys: KeyRing,
    /// The local parts that are mailboxes, which are their names too. Case does not matter.
    pub mailboxes: Vec<String>,
    /// The mailbox for every local part that is neither token nor mailbox; `None` refuses those.
    pub catch_all: Option<String>,
    /// The mailbox for `postmaster` (RFC 5321 section 4.5.1).
    pub postmaster: String,
    /// The policy for mail whose sender is not known for sure.
    pub policy: AuthPolicy,
}

impl Routes {
    /// Puts the routes in order. The first is the default: it has the postmaster of `hostname`, the
    /// server's own name.
    ///
    /// # Errors
    /// If there is no route, a route without domain, or a domain that two routes have.
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

    /// The routes in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.list.iter()
    }

    /// The route that has this domain.
    pub fn by_domain(&self, domain: &Domain) -> Option<&Route> {
        self.by_domain.get(domain).map(|at| &self.list[*at])
    }

    /// The route of this name.
    pub fn by_name(&self, name: &str) -> Option<&Route> {
        self.list.iter().find(|route| route.name == name)
    }

    /// The recipient that `address` stands for: a thread, by its verified token, a mail we sent, by its
    /// verified return path, or a mailbox. `store` knows the tokens that were revoked and those whose
    /// letters lost their case on the way.
    ///
    /// # Errors
    /// The reason why the address is not ours.
    pub async fn resolve(
        &self,
        store: &Store,
        address: Address,
        now: Timestamp,
    ) -> Result<Recipient, Unroutable> {
        self.resolve_with(Some(store), address, now).await
    }

    /// As [`Routes::resolve`]; without a store no token is revoked, and a token in lower case is
    /// unknown.
    ///
    /// # Errors
    /// Says why the address is not ours to take.
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

    /// The recipient of mail to the bare `<postmaster>`, which every server must take (RFC 5321
    /// section 4.5.1).
    pub fn postmaster(&self) -> Recipient {
        let route = &self.list[0];
        Recipient {
            address: self.postmaster.clone(),
            route: route.name.clone(),
            target: RecipientTarget::Mailbox(route.postmaster.clone()),
        }
    }

    /// The policy's decision about a mail for this recipient, by its sender. `author` is the one address
    /// of its From field.
    /// # Errors
    /// The store does not tell whose the thread is.
    pub async fn apply_policy(
        &self,
        store: &Store,
        recipient: &Recipient,
        verdict: &Verdict,
        author: Option<&Address>,
    ) -> Result<PolicyDecision, StoreError> {
        // The default route is asked for what is recipient to none: nothing that was made here is.
        let route = self.by_name(&recipient.route).unwrap_or(&self.list[0]);
        // Whoever reports on a mail vouches for nothing, and whatever else comes there is not posted.
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
    /// True if `author` is whom the token was minted for, or else the thread's known sender. To which
    /// thread a mail without a token belongs is found later, and then this is asked again: until
    /// then it may be the author's.
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
            // Nobody can say whose it is, so it is not taken for this author's.
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
        // Source routes in disguise (RFC 5321 section 3.9.1 and appendix F.2 tell of the `%` and
        // `!` hacks). A catch-all must not look like a relay that obeys them.
        if local.contains(['%', '!', '@']) {
            return Err(Unroutable::Foreign);
        }
        self.catch_all.clone().ok_or(Unroutable::Unknown)
    }
}

/// A reason why an address is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unroutable {
    /// The token is ours, but too old.
    #[error("token expired")]
    Expired,
    /// The address has a token's form, but no key of the route signed it.
    #[error("token forged")]
    Forged,
    /// The address is at a domain that is not ours, or asks to be sent on to one.
    #[error("domain not ours")]
    Foreign,
    /// A token of ours, minted ahead of our clock.
    #[error("token not valid yet")]
    NotYetValid,
    /// The token was revoked.
    #[error("token revoked")]
    Revoked,
    /// The store is needed to tell, and gives no answer.
    #[error("no answer of the store")]
    Store(#[from] StoreError),
    /// The address is at a domain of ours, but neither a token nor a mailbox.
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

/// The fault of a list of routes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RoutesError {
    /// Two routes (or one twice) have this domain.
    #[error("{0}: domain in two routes")]
    DomainTwice(Domain),
    /// There is no route at all.
    #[error("no route")]
    Empty,
    /// The server's name cannot stand in an address.
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

/// A lower-cased token has no signature left to check. It is as good as its digest: nobody but those
/// who were sent the token can know it. It grows old as it would have with its case.
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
    fn routes_that_cannot_be_told_apart_are_refused() {
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
    fn a_catch_all_is_no_relay() {
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
