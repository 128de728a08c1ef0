//! Owns the command line: which commands there are, and what each prints.
//!
//! Does not serve mail: `serve` hands over to `run`. One file a command.

mod check;
mod compose;
mod control;
mod doctor;
mod explain;
mod mail;
mod queue;
mod sender;
mod serve;
mod terminal;
mod token;

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Loaded, Purpose};
use crate::run::{Exit, ExitError};

/// A mail door for products that have conversations: mail in, message out.
///
/// Without a command it serves. Without a configuration it serves in development mode: on loopback
/// only, everything generated, the data in ./data.
#[derive(Debug, Parser)]
#[command(name = "postern", version, max_term_width = 100)]
pub struct Arguments {
    /// The configuration file; the variable POSTERN_CONFIG names it too
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<CliCommand>,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Takes mail in and delivers it until told to stop (the default)
    Serve,
    /// Says whether a configuration can be used, and everything that is wrong with it
    #[command(visible_alias = "check")]
    CheckConfig(check::CheckConfigArgs),
    /// Mints, reads and revokes reply tokens
    #[command(subcommand)]
    Token(token::TokenSubcommand),
    /// Explains what a mail would become, takes one in by hand, or shows one that would go out
    #[command(subcommand)]
    Mail(mail::MailSubcommand),
    /// Shows and settles the mail that waits
    #[command(subcommand)]
    Queue(queue::QueueSubcommand),
    /// Looks whether everything the server needs is there
    Doctor(doctor::DoctorArgs),
}

impl Arguments {
    /// Reads the program's arguments.
    ///
    /// # Errors
    /// The code to end with, after help or the fault has been printed.
    pub fn read() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            // Nothing is left to do if even this cannot be printed.
            let _ = error.print();
            if error.use_stderr() {
                ExitCode::from(Exit::Usage.code())
            } else {
                ExitCode::SUCCESS
            }
        })
    }

    /// Does what was asked, writing to `out`.
    ///
    /// # Errors
    /// Why it could not be done, and the code to end with.
    pub fn run(self, out: &mut impl Write) -> Result<(), ExitError> {
        let file = self.config.or_else(|| {
            let named = env::var_os("POSTERN_CONFIG").filter(|name| !name.is_empty());
            named.map(PathBuf::from)
        });
        match self.command {
            None | Some(CliCommand::Serve) => serve::serve(file, out),
            Some(CliCommand::CheckConfig(check)) => check.run(file, out),
            Some(CliCommand::Token(token)) => token.run(file, out),
            Some(CliCommand::Mail(mail)) => mail.run(file, out),
            Some(CliCommand::Queue(queue)) => queue.run(file, out),
            Some(CliCommand::Doctor(doctor)) => doctor.run(file, out),
        }
    }
}

/// The configuration in `file` and the process' environment.
fn load(file: Option<PathBuf>, purpose: Purpose) -> Result<Loaded, ExitError> {
    let loaded = config::load(file.as_deref(), |name| env::var_os(name), purpose)?;
    Ok(loaded)
}

/// Runs one future to its end, for commands that are not servers.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, ExitError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}
