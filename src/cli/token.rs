//! Owns `token`: mints, inspects and revokes a reply address.
//!
//! Does not print a signing key. A printed address is itself a secret: its holder can write into
//! the thread.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::control::ControlClient;
use super::terminal::printable;
use crate::clock;
use crate::config::{Config, Purpose, RouteConfig};
use crate::http::control::SOCKET_NAME;
use crate::mail::address::Address;
use crate::mail::token::{Claims, KeyRing, TokenError};
use crate::queue::NamedThread;
use crate::run::{Exit, ExitError};

/// Commands of `token`.
#[derive(Debug, Subcommand)]
pub(super) enum TokenSubcommand {
    /// Mint a reply address for a thread and print it
    Mint(MintArgs),
    /// Print the claims of the token in an address, or the reason why it is not valid
    Inspect {
        /// The reply address
        address: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Revoke the token in an address
    Revoke {
        /// The reply address
        address: String,
    },
}

/// Arguments of `token mint`.
#[derive(Debug, Args)]
pub(super) struct MintArgs {
    /// The thread's id in the product
    #[arg(long, value_name = "ID")]
    thread: String,
    /// Bind the token to the person with this address
    #[arg(long, value_name = "ADDRESS")]
    participant: Option<String>,
    /// The route of the token; by default the first one
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
}

impl TokenSubcommand {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        match self {
            Self::Mint(mint) => {
                let loaded = super::load(file, Purpose::Run)?;
                mint.run(&loaded.config, out)
            }
            Self::Inspect { address, json } => {
                let loaded = super::load(file, Purpose::Look)?;
                inspect(
                    &loaded.config,
                    &parse_address("address", &address)?,
                    json,
                    out,
                )
            }
            Self::Revoke { address } => {
                let loaded = super::load(file, Purpose::Look)?;
                let address = parse_address("address", &address)?;
                let body = json!({ "address": address.to_string() }).to_string();
                let client = ControlClient::open(&loaded.config)?;
                let revoked = client.request(Method::POST, "/tokens/revoke", body.into_bytes());
                client.close();
                revoked?;
                writeln!(out, "revoked")?;
                Ok(())
            }
        }
    }
}

impl MintArgs {
    fn run(&self, config: &Config, out: &mut impl Write) -> Result<(), ExitError> {
        let participant = self.participant.as_deref();
        let participant = participant
            .map(|address| parse_address("participant", address))
            .transpose()?;
        let route = find_route(config, self.route.as_deref())?;
        // A token contains the whole UUID, so no store is needed. For any other id it has only a digest,
        // which the store must map; a running server records both.
        let is_uuid = Uuid::try_parse(&self.thread)
            .is_ok_and(|uuid| uuid.hyphenated().to_string() == self.thread);
        let address = if is_uuid && !config.data_dir.join(SOCKET_NAME).exists() {
            self.mint(route, participant.as_ref())?
        } else {
            self.ask(config, participant.as_ref())?
        };
        writeln!(out, "{}", printable(&address))?;
        Ok(())
    }

    fn mint(
        &self,
        route: &RouteConfig,
        participant: Option<&Address>,
    ) -> Result<String, ExitError> {
        let ring = key_ring(route)?;
        let (format, domain) = (route.token_format, &route.domains[0]);
        let minted = ring.reply_address(format, domain, &self.thread, participant, clock::now());
        let address = minted.map_err(|error| ExitError::new(Exit::Malformed, error))?;
        Ok(address.to_string())
    }

    fn ask(&self, config: &Config, participant: Option<&Address>) -> Result<String, ExitError> {
        let body = json!({
            "thread": self.thread,
            "participant": participant.map(ToString::to_string),
            "route": self.route,
        });
        let client = ControlClient::open(config)?;
        let minted = client.request(Method::POST, "/tokens", body.to_string().into_bytes());
        client.close();
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
) -> Result<(), ExitError> {
    let mine = |route: &&RouteConfig| route.domains.contains(address.domain());
    let Some(route) = config.routes.iter().find(mine) else {
        let line = format!(
            "{}: not a reply domain of this configuration",
            address.domain()
        );
        return Err(ExitError::with_message(Exit::Malformed, line));
    };
    let claims = match key_ring(route)?.verify(address, clock::now()) {
        Ok(claims) => claims,
        Err(error @ TokenError::CaseLost(_)) => {
            let line = format!("{error}: only the store can tell its thread");
            return Err(ExitError::with_message(Exit::Malformed, line));
        }
        Err(error) => return Err(ExitError::new(Exit::Malformed, error)),
    };
    let mut thread = NamedThread::without_store(&claims);
    // Without a data folder no server can have revoked it.
    if config.data_dir.exists() {
        let known = known_to_store(config, address)?;
        if known["revoked"] == true {
            return Err(ExitError::with_message(Exit::Malformed, "token is revoked"));
        }
        thread = match known["thread"].as_str() {
            Some(id) => NamedThread::Known(id.to_owned()),
            None => NamedThread::Unknown(claims.thread),
        };
    }
    let lines = claim_lines(route, &claims, &thread);
    if json {
        let pairs = lines.map(|(name, value)| (name.to_owned(), json!(value)));
        let mut object = json!(serde_json::Map::from_iter(pairs));
        if thread.id().is_none() {
            object["threadNote"] = object["thread"].take();
        }
        writeln!(out, "{}", printable(&object.to_string()))?;
        return Ok(());
    }
    for (name, value) in lines {
        writeln!(out, "{name}: {}", printable(&value))?;
    }
    Ok(())
}

/// The facts of a token that only the store knows.
fn known_to_store(config: &Config, address: &Address) -> Result<Value, ExitError> {
    let body = json!({ "address": address.to_string() }).to_string();
    let client = ControlClient::open(config)?;
    let known = client.request(Method::POST, "/tokens/inspect", body.into_bytes());
    client.close();
    Ok(known?["data"].clone())
}

/// The claims of a verified token, as names and values.
fn claim_lines(
    route: &RouteConfig,
    claims: &Claims,
    thread: &NamedThread,
) -> [(&'static str, String); 5] {
    let bound = if claims.participant.is_some() {
        "bound"
    } else {
        "unbound"
    };
    [
        ("route", route.name.clone()),
        ("thread", thread.to_string()),
        ("issued", claims.issued_at.to_rfc3339()),
        (
            "expires",
            claims.issued_at.plus(route.token_lifetime).to_rfc3339(),
        ),
        ("participant", bound.to_owned()),
    ]
}

/// The route of this name, or the first one.
pub(super) fn find_route<'c>(
    config: &'c Config,
    name: Option<&str>,
) -> Result<&'c RouteConfig, ExitError> {
    let named = |route: &&RouteConfig| name.is_none_or(|name| *name == route.name);
    config.routes.iter().find(named).ok_or_else(|| {
        let name = name.unwrap_or_default();
        ExitError::with_message(
            Exit::Usage,
            format!("route {name:?}: there is none of this name"),
        )
    })
}

pub(super) fn key_ring(route: &RouteConfig) -> Result<KeyRing, ExitError> {
    route
        .key_ring()
        .map_err(|error| ExitError::new(Exit::Config, error))
}

pub(super) fn parse_address(name: &str, text: &str) -> Result<Address, ExitError> {
    Address::parse(text)
        .map_err(|error| ExitError::with_message(Exit::Usage, format!("{name} {text:?}: {error}")))
}
