//! Owns SPF (RFC 7208): whether a host may send for a domain.
//!
//! Does not use mail-auth's evaluator, which counts no void look-ups, accepts malformed records and differs
//! from the RFC's test suite. Does not fetch explanations: peers receive only our own texts.

mod macros;
mod record;

use std::net::IpAddr;

use self::macros::{DomainSpec, MacroValues};
use self::record::{PrefixLengths, SpfDirective, SpfMechanism, SpfRecord};
use super::dns::{DnsAnswer, DnsFailure, LABEL_BYTES_MAX, NAME_BYTES_MAX, QueryBudget};
use crate::mail::verdict::{AuthResult, SpfVerdict};

/// The number of terms with DNS queries (RFC 7208 section 4.6.4).
const LOOKUPS_MAX: usize = 10;
/// The number of terms with void look-ups (RFC 7208 section 4.6.4).
const VOIDS_MAX: usize = 2;
/// The number of exchangers of one `mx`, and of names of one `ptr` (RFC 7208 section 4.6.4).
const HOSTS_MAX: usize = 10;

/// An identity to check.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpfIdentity<'a> {
    /// The peer's address.
    pub(super) ip: IpAddr,
    /// The name given in EHLO or HELO.
    pub(super) helo: &'a str,
    /// The local part of the sender, or `postmaster` if there is none.
    pub(super) local: &'a str,
    /// The sender's domain as A-labels, whose record is looked up.
    pub(super) domain: &'a str,
}

/// `check_host()` of RFC 7208 section 4.
pub(super) async fn check(budget: &QueryBudget<'_>, sender: SpfIdentity<'_>) -> SpfVerdict {
    let sender = SpfIdentity {
        ip: sender.ip.to_canonical(),
        domain: sender.domain.strip_suffix('.').unwrap_or(sender.domain),
        ..sender
    };
    let mut run = SpfEvaluation {
        budget,
        sender,
        lookups: 0,
        voids: 0,
        validated: None,
        passes_all: false,
    };
    let (result, reason) = match run.check_host(sender.domain.to_owned()).await {
        Ok(outcome) => (outcome, None),
        Err(stop) => stop.into_parts(),
    };
    SpfVerdict {
        result,
        domain: sender.domain.to_ascii_lowercase(),
        passes_all: run.passes_all && result == AuthResult::Pass,
        reason,
    }
}

/// The error that ends an evaluation.
enum SpfError {
    Perm(String),
    Temp(String),
}

impl SpfError {
    fn into_parts(self) -> (AuthResult, Option<String>) {
        match self {
            Self::Perm(reason) => (AuthResult::Permerror, Some(reason)),
            Self::Temp(reason) => (AuthResult::Temperror, Some(reason)),
        }
    }
}

/// An evaluation, with the look-ups made so far.
struct SpfEvaluation<'a> {
    budget: &'a QueryBudget<'a>,
    sender: SpfIdentity<'a>,
    lookups: usize,
    voids: usize,
    /// The candidates for `%{p}`, after the first use.
    validated: Option<Vec<String>>,
    /// True if the last matching term matches any host.
    passes_all: bool,
}

impl SpfEvaluation<'_> {
    /// The recursion is bounded by [`LOOKUPS_MAX`].
    async fn check_host(&mut self, domain: String) -> Result<AuthResult, SpfError> {
        let Some(record) = self.record(&domain).await? else {
            return Ok(AuthResult::None);
        };
        for directive in &record.directives {
            if self.matches(&directive.mechanism, &domain).await? {
                if !matches!(directive.mechanism, SpfMechanism::Include(_)) {
                    self.passes_all = is_for_all(directive);
                }
                return Ok(directive.outcome);
            }
        }
        let Some(redirect) = &record.redirect else {
            return Ok(AuthResult::Neutral);
        };
        self.count_lookup()?;
        let target = self.expanded(redirect, &domain).await?;
        match Box::pin(self.check_host(target)).await? {
            AuthResult::None => Err(SpfError::Perm("redirect= leads to no record".to_owned())),
            outcome => Ok(outcome),
        }
    }

    /// The record of a domain (section 4.5).
    async fn record(&self, domain: &str) -> Result<Option<SpfRecord>, SpfError> {
        if !is_domain(domain) {
            return Ok(None);
        }
        let texts = self.budget.texts(domain).await;
        let texts = texts.map_err(|failure| temporary(&failure, domain))?;
        let mut records = texts.text().filter(|text| SpfRecord::is_spf_record(text));
        match (records.next(), records.next()) {
            (None, _) => Ok(None),
            (Some(text), None) => match SpfRecord::parse(text) {
                Ok(record) => Ok(Some(record)),
                Err(reason) => Err(SpfError::Perm(format!("{domain}: {reason}"))),
            },
            (Some(_), Some(_)) => Err(SpfError::Perm(format!("{domain}: several records"))),
        }
    }

    async fn matches(&mut self, mechanism: &SpfMechanism, domain: &str) -> Result<bool, SpfError> {
        let ip = self.sender.ip;
        match mechanism {
            SpfMechanism::All => Ok(true),
            SpfMechanism::Ip4(network, bits) => Ok(is_within(ip, (*network).into(), *bits)),
            SpfMechanism::Ip6(network, bits) => Ok(is_within(ip, (*network).into(), *bits)),
            SpfMechanism::Include(spec) => {
                self.count_lookup()?;
                let target = self.expanded(spec, domain).await?;
                match Box::pin(self.check_host(target)).await? {
                    AuthResult::Pass => Ok(true),
                    AuthResult::None => {
                        Err(SpfError::Perm("include leads to no record".to_owned()))
                    }
                    _ => Ok(false),
                }
            }
            SpfMechanism::A(spec, prefix) => {
                self.count_lookup()?;
                let target = self.target(spec.as_ref(), domain).await?;
                let found = self.addresses(&target).await?;
                self.count_void(&found)?;
                Ok(prefix.has_any(ip, &found))
            }
            SpfMechanism::Mx(spec, prefix) => {
                self.count_lookup()?;
                let target = self.target(spec.as_ref(), domain).await?;
                self.matches_mx(&target, *prefix).await
            }
            SpfMechanism::Exists(spec) => {
                self.count_lookup()?;
                let target = self.expanded(spec, domain).await?;
                let found = self.budget.addresses_v4(&target).await;
                let found = found.map_err(|failure| temporary(&failure, &target))?;
                self.count_void(&found)?;
                Ok(!found.is_void())
            }
            SpfMechanism::Ptr(spec) => {
                self.count_lookup()?;
                let target = self.target(spec.as_ref(), domain).await?;
                let names = self.validated_names().await?;
                Ok(names.iter().any(|name| is_at_or_below(name, &target)))
            }
        }
    }

    async fn matches_mx(&mut self, target: &str, prefix: PrefixLengths) -> Result<bool, SpfError> {
        let exchanges = self.budget.exchanges(target).await;
        let exchanges = exchanges.map_err(|failure| temporary(&failure, target))?;
        self.count_void(&exchanges)?;
        if exchanges.host_names().count() > HOSTS_MAX {
            return Err(SpfError::Perm(format!("{target}: too many exchangers")));
        }
        for exchange in exchanges.host_names() {
            let found = self.addresses(exchange).await?;
            if prefix.has_any(self.sender.ip, &found) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The names of the peer's address that resolve to it again (section 5.5). Names with failed look-ups
    /// are left out.
    async fn validated_names(&mut self) -> Result<Vec<String>, SpfError> {
        let ip = self.sender.ip;
        let Ok(names) = self.budget.names(ip).await else {
            return Ok(Vec::new());
        };
        self.count_void(&names)?;
        let mut validated = Vec::new();
        for name in names.host_names().take(HOSTS_MAX) {
            if let Ok(found) = self.budget.addresses(name, ip).await
                && found.ips().any(|other| other == ip)
            {
                validated.push(name.to_owned());
            }
        }
        Ok(validated)
    }

    async fn addresses(&self, name: &str) -> Result<DnsAnswer, SpfError> {
        let found = self.budget.addresses(name, self.sender.ip).await;
        found.map_err(|failure| temporary(&failure, name))
    }

    async fn target(
        &mut self,
        spec: Option<&DomainSpec>,
        domain: &str,
    ) -> Result<String, SpfError> {
        match spec {
            Some(spec) => self.expanded(spec, domain).await,
            None => Ok(domain.to_owned()),
        }
    }

    async fn expanded(&mut self, spec: &DomainSpec, domain: &str) -> Result<String, SpfError> {
        if spec.needs_validated() && self.validated.is_none() {
            self.validated = Some(self.validated_names().await?);
        }
        let names = self.validated.as_deref().unwrap_or_default();
        // The domain itself is preferred, then a subdomain, then any name (section 7.3).
        let validated = names
            .iter()
            .find(|name| name.eq_ignore_ascii_case(domain))
            .or_else(|| names.iter().find(|name| is_at_or_below(name, domain)))
            .or_else(|| names.first());
        Ok(spec.expand(&MacroValues {
            ip: self.sender.ip,
            local: self.sender.local,
            sender_domain: self.sender.domain,
            domain,
            helo: self.sender.helo,
            validated: validated.map_or("unknown", String::as_str),
        }))
    }

    fn count_lookup(&mut self) -> Result<(), SpfError> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            return Err(SpfError::Perm(format!("more than {LOOKUPS_MAX} lookups")));
        }
        Ok(())
    }

    fn count_void(&mut self, answer: &DnsAnswer) -> Result<(), SpfError> {
        self.voids += usize::from(answer.is_void());
        if self.voids > VOIDS_MAX {
            return Err(SpfError::Perm(format!(
                "more than {VOIDS_MAX} void lookups"
            )));
        }
        Ok(())
    }
}

impl PrefixLengths {
    fn has_any(self, ip: IpAddr, found: &DnsAnswer) -> bool {
        let bits = if ip.is_ipv4() { self.v4 } else { self.v6 };
        found.ips().any(|network| is_within(ip, network, bits))
    }
}

fn temporary(failure: &DnsFailure, name: &str) -> SpfError {
    SpfError::Temp(failure.reason(name))
}

/// True if the directive passes every host.
const fn is_for_all(directive: &SpfDirective) -> bool {
    matches!(
        directive.mechanism,
        SpfMechanism::All | SpfMechanism::Ip4(_, 0) | SpfMechanism::Ip6(_, 0)
    )
}

fn is_within(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let shift = |width: u32| width - u32::from(bits);
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            let differs = ip.to_bits() ^ network.to_bits();
            differs.checked_shr(shift(32)).unwrap_or_default() == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            let differs = ip.to_bits() ^ network.to_bits();
            differs.checked_shr(shift(128)).unwrap_or_default() == 0
        }
        _ => false,
    }
}

fn is_at_or_below(name: &str, domain: &str) -> bool {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    name.len()
        .checked_sub(domain.len())
        .and_then(|at| name.split_at_checked(at))
        .is_some_and(|(above, end)| {
            end.eq_ignore_ascii_case(domain) && (above.is_empty() || above.ends_with('.'))
        })
}

/// A fully qualified name of several labels (section 4.3).
fn is_domain(domain: &str) -> bool {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    domain.len() <= NAME_BYTES_MAX
        && domain.contains('.')
        && !domain.starts_with('[')
        && domain
            .split('.')
            .all(|label| (1..=LABEL_BYTES_MAX).contains(&label.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (inside, network, bits, expected) in [
            ("192.0.2.9", "192.0.2.0", 24, true),
            ("192.0.3.9", "192.0.2.0", 24, false),
            ("192.0.2.9", "192.0.2.9", 32, true),
            ("9.9.9.9", "1.1.1.1", 0, true),
            ("2001:db8::1", "2001:db8::", 32, true),
            ("2001:db9::1", "2001:db8::", 32, false),
            ("::1", "::2", 0, true),
            ("192.0.2.9", "::", 0, false),
        ] {
            assert_eq!(
                is_within(ip(inside), ip(network), bits),
                expected,
                "{inside}"
            );
        }
    }

    #[test]
    fn names_lie_below_domains() {
        assert!(is_at_or_below("a.example.com", "example.com"));
        assert!(is_at_or_below("EXAMPLE.com", "example.com."));
        assert!(!is_at_or_below("badexample.com", "example.com"));
        assert!(!is_at_or_below("com", "example.com"));
    }
}
