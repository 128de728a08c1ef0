//! Owns the check that an address has a name that resolves to the address again (RFC 8601 section 2.7.3).
//!
//! Does not rate the name.

use std::net::IpAddr;

use super::dns::QueryBudget;
use crate::mail::verdict::{AuthResult, IprevVerdict};

/// The number of names of one address that are looked up.
const NAMES_MAX: usize = 5;

pub(super) async fn check(budget: &QueryBudget<'_>, ip: Option<IpAddr>) -> IprevVerdict {
    let Some(ip) = ip.map(|ip| ip.to_canonical()) else {
        return IprevVerdict::default();
    };
    let (result, name) = match name_of(budget, ip).await {
        Ok(name) => (AuthResult::Pass, Some(name)),
        Err(outcome) => (outcome, None),
    };
    IprevVerdict {
        result,
        ip: Some(ip),
        name,
    }
}

async fn name_of(budget: &QueryBudget<'_>, ip: IpAddr) -> Result<String, AuthResult> {
    let names = budget.names(ip).await.map_err(|_| AuthResult::Temperror)?;
    if names.is_void() {
        return Err(AuthResult::Permerror);
    }
    let mut outcome = AuthResult::Fail;
    for name in names.host_names().take(NAMES_MAX) {
        match budget.addresses(name, ip).await {
            Ok(found) if found.ips().any(|other| other == ip) => return Ok(name.to_owned()),
            Ok(_) => {}
            Err(_) => outcome = AuthResult::Temperror,
        }
    }
    Err(outcome)
}
