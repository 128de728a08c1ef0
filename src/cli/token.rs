//! Owns `token`: minting a reply address, reading one, revoking one.
//!
//! Does not print a secret; an address is one only for whoever may not write into its thread.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::control::Desk;
use super::terminal::plain;
use crate::clock;
use crate::config::{Config, Purpose, Route};
use crate::http::control::SOCKET;
use crate::mail::address::Address;
use crate::mail::token::{Claims, KeyRing, TokenError};
use crate::run::{Exit, Failure};

/// Commands of `token`.
#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Mints a reply address for a thread and prints it
    Mint(Mint),
    /// Says what the token in an address says, or why it says nothing
    Inspect {
        /// The reply address
        address: String,
        /// Prints one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Makes the token in an address void
    Revoke {
        /// The reply address
        address: String,
    },
}

/// Arguments of `token mint`.
#[derive(Debug, Args)]
pub(super) struct Mint {
    /// The thread's id in the product
    #[arg(long, value_name = "ID")]
    thread: String,
    /// Binds the token to the person with this address
    #[arg(long, value_name = "ADDRESS")]
    participant: Option<String>,
    /// The route to mint for; the first one if not given
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
}

impl Token {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Mint(mint) => {
                let loaded = super::load(file, Purpose::Run)?;
                mint.run(&loaded.config, out)
            }
            Self::Inspect { address, json } => {
                let loaded = super::load(file, Purpose::Look)?;
                inspect(&loaded.config, &parse("address", &address)?, json, out)
            }
            Self::Revoke { address } => {
                let loaded = super::load(file, Purpose::Look)?;
                let address = parse("address", &address)?;
                let body = json!({ "address": address.to_string() }).to_string();
                let desk = Desk::open(&loaded.config)?;
                let revoked = desk.ask(Method::POST, "/tokens/revoke", body.into_bytes());
                desk.close();
                revoked?;
                writeln!(out, "revoked")?;
                Ok(())
            }
        }
    }
}

impl Mint {
    fn run(&self, config: &Config, out: &mut impl Write) -> Result<(), Failure> {
        let participant = self.participant.as_deref();
        let participant = participant
            .map(|address| parse("participant", address))
            .transpose()?;
        let route = route(config, self.route.as_deref())?;
        // A UUID is whole within its token, so arithmetic is enough. What the token only has a digest
        // of must be remembered, and a running server may as well remember both.
        let is_uuid = Uuid::try_parse(&self.thread)
            .is_ok_and(|uuid| uuid.hyphenated().to_string() == self.thread);
        let address = if is_uuid && !config.data_dir.join(SOCKET).exists() {
            self.mint(route, participant.as_ref())?
        } else {
            self.ask(config, participant.as_ref())?
        };
        writeln!(out, "{}", plain(&address))?;
        Ok(())
    }

    fn mint(&self, route: &Route, participant: Option<&Address>) -> Result<String, Failure> {
        let ring = key_ring(route)?;
        let (format, domain) = (route.token_format, &route.domains[0]);
        let minted = ring.reply_address(format, domain, &self.thread, participant, clock::now());
        let address = minted.map_err(|error| Failure::new(Exit::Malformed, error))?;
        Ok(address.to_string())
    }

    fn ask(&self, config: &Config, participant: Option<&Address>) -> Result<String, Failure> {
        let body = json!({
            "thread": self.thread,
            "participant": participant.map(ToString::to_string),
            "route": self.route,
        });
        let desk = Desk::open(config)?;
        let minted = desk.ask(Method::POST, "/tokens", body.to_string().into_bytes());
        desk.close();
        let minted = minted?;
        Ok(minted["data"]["address"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }
}

fn inspect(
    config: &Config,
    address: &Address,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mine = |route: &&Route| route.domains.contains(address.domain());
    let Some(route) = config.routes.iter().find(mine) else {
        let line = format!(
            "{}: not a reply domain of this configuration",
            address.domain()
        );
        return Err(Failure::because(Exit::Malformed, line));
    };
    let claims = match key_ring(route)?.verify(address, clock::now()) {
        Ok(claims) => claims,
        Err(error @ TokenError::CaseLost(_)) => {
            let line = format!("{error}: only the store can tell its thread");
            return Err(Failure::because(Exit::Malformed, line));
        }
        Err(error) => return Err(Failure::new(Exit::Malformed, error)),
    };
    let said = said(route, &claims);
    if json {
        let object: serde_json::Map<_, _> = said
            .into_iter()
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect();
        writeln!(out, "{}", plain(&json!(object).to_string()))?;
        return Ok(());
    }
    for (name, value) in said {
        writeln!(out, "{name}: {}", plain(&value))?;
    }
    Ok(())
}

/// What a verified token says, line by line.
fn said(route: &Route, claims: &Claims) -> [(&'static str, String); 5] {
    let thread = claims.thread_id.clone();
    let bound = if claims.participant.is_some() {
        "bound"
    } else {
        "unbound"
    };
    [
        ("route", route.name.clone()),
        (
            "thread",
            thread.unwrap_or_else(|| claims.thread.as_uuid_text()),
        ),
        ("issued", claims.issued_at.to_rfc3339()),
        (
            "expires",
            claims.issued_at.plus(route.token_lifetime).to_rfc3339(),
        ),
        ("participant", bound.to_owned()),
    ]
}

/// The route of this name, or the first one.
pub(super) fn route<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c Route, Failure> {
    let named = |route: &&Route| name.is_none_or(|name| *name == route.name);
    config.routes.iter().find(named).ok_or_else(|| {
        let name = name.unwrap_or_default();
        Failure::because(
            Exit::Usage,
            format!("route {name:?}: there is none of this name"),
        )
    })
}

pub(super) fn key_ring(route: &Route) -> Result<KeyRing, Failure> {
    route
        .key_ring()
        .map_err(|error| Failure::new(Exit::Config, error))
}

pub(super) fn parse(name: &str, text: &str) -> Result<Address, Failure> {
    Address::parse(text)
        .map_err(|error| Failure::because(Exit::Usage, format!("{name} {text:?}: {error}")))
}
