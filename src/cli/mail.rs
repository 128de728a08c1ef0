//! Owns `mail`: explains a mail, composes one, and injects one by hand.
//!
//! Does not deliver anything: an injected mail waits for the server like any other.

use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use reqwest::Method;

use super::compose::ComposeArgs;
use super::control::{ControlClient, query};
use super::explain::ExplainArgs;
use super::input;
use super::token::parse_address;
use crate::config::Purpose;
use crate::mail::view::View;
use crate::run::ExitError;

/// Commands of `mail`.
#[derive(Debug, Subcommand)]
pub(super) enum MailSubcommand {
    /// Explain what would happen to a mail, without keeping or sending anything
    Explain(ExplainArgs),
    /// Accept a mail as if it had arrived by SMTP
    Inject(InjectArgs),
    /// Print the mail for a message, without sending it
    Compose(Box<ComposeArgs>),
}

/// Arguments of `mail inject`.
#[derive(Debug, Args)]
pub(super) struct InjectArgs {
    /// The file with the mail; - is standard input
    file: PathBuf,
    /// A recipient; may be repeated
    #[arg(long, value_name = "ADDRESS", required = true)]
    rcpt: Vec<String>,
    /// The envelope sender, <> for the null sender; by default the mail's own From
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
        let mail = Bytes::from(input::read(&self.file)?);
        // With the null sender the mail would be dropped as an automatic reply.
        let from = from.or_else(|| {
            let view = View::parse(&mail);
            view.header.author().map(ToString::to_string)
        });
        let from = from.as_deref().map(|from| ("from", from));
        let mut pairs: Vec<_> = from.into_iter().collect();
        pairs.extend(self.rcpt.iter().map(|rcpt| ("rcpt", rcpt.as_str())));
        let client = ControlClient::open(&loaded.config)?;
        let injected = client.request(
            Method::POST,
            &format!("/mail{}", query(&pairs)),
            mail.into(),
        );
        client.close();
        let injected = injected?;
        writeln!(
            out,
            "{}",
            injected["data"]["id"].as_str().unwrap_or("taken")
        )?;
        Ok(())
    }
}
