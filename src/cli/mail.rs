//! Owns `mail`: what a mail would become, and taking one in by hand.
//!
//! Does not deliver anything: an injected mail waits for the server like any other.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use reqwest::Method;

use super::compose::ComposeArgs;
use super::control::{ControlClient, query};
use super::explain::ExplainArgs;
use super::token::parse_address;
use crate::config::Purpose;
use crate::mail::view::View;
use crate::run::{Exit, ExitError};

/// Octets of a mail that are read; no configuration allows more.
const MAIL_BYTES_MAX: u64 = 1 << 30;

/// Commands of `mail`.
#[derive(Debug, Subcommand)]
pub(super) enum MailSubcommand {
    /// Says what a mail would become, without keeping or sending anything
    Explain(ExplainArgs),
    /// Takes a mail in as if it had come by SMTP
    Inject(InjectArgs),
    /// Prints the mail an answer would become, without sending it
    Compose(Box<ComposeArgs>),
}

/// Arguments of `mail inject`.
#[derive(Debug, Args)]
pub(super) struct InjectArgs {
    /// The file with the mail; - is standard input
    file: PathBuf,
    /// Whom it is for; may be given more than once
    #[arg(long, value_name = "ADDRESS", required = true)]
    rcpt: Vec<String>,
    /// The sender in the envelope, <> for the null sender; without it the mail's own From tells
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
}

impl MailSubcommand {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        match self {
            Self::Explain(explain) => explain.run(file, out),
            Self::Inject(inject) => inject.run(file, out),
            Self::Compose(compose) => compose.run(file, out),
        }
    }
}

impl InjectArgs {
    fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        for rcpt in &self.rcpt {
            parse_address("rcpt", rcpt)?;
        }
        let from = match self.from.as_deref() {
            None => None,
            Some("" | "<>") => Some(String::new()),
            Some(from) => Some(parse_address("from", from)?.to_string()),
        };
        let loaded = super::load(file, Purpose::Run)?;
        let mail = Bytes::from(read(&self.file)?);
        // With the null sender it would be dropped as the answer of a machine.
        let from = from.or_else(|| {
            let view = View::parse(&mail);
            view.header.author().map(ToString::to_string)
        });
        let from = from.as_deref().map(|from| ("from", from));
        let mut pairs: Vec<_> = from.into_iter().collect();
        pairs.extend(self.rcpt.iter().map(|rcpt| ("rcpt", rcpt.as_str())));
        let desk = ControlClient::open(&loaded.config)?;
        let injected = desk.request(
            Method::POST,
            &format!("/mail{}", query(&pairs)),
            mail.into(),
        );
        desk.close();
        let injected = injected?;
        writeln!(
            out,
            "{}",
            injected["data"]["id"].as_str().unwrap_or("taken")
        )?;
        Ok(())
    }
}

/// The bytes of the file at `path`, or of standard input for `-`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ExitError> {
    let unreadable = |error: io::Error| {
        let line = format!("{}: {error}", path.display());
        ExitError::with_message(Exit::NoInput, line)
    };
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    source
        .take(MAIL_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAIL_BYTES_MAX {
        let line = format!("{}: more than {MAIL_BYTES_MAX} octets", path.display());
        return Err(ExitError::with_message(Exit::Malformed, line));
    }
    Ok(bytes)
}
