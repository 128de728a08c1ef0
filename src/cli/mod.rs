//! Owns the command line: the commands, and their output.
//!
//! Does not serve mail: `serve` calls `run`. Each command has a separate file.

mod bulk;
mod check;
mod compose;
mod control;
mod doctor;
mod explain;
mod input;
mod mail;
mod queue;
mod sender;
mod serve;
mod store;
mod terminal;
mod token;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Loaded, Purpose};
use crate::run::{Exit, ExitError};

/// The folder of an installation's configuration, and the file in it.
const CONFIG_FOLDER: &str = "/etc/postern";
const CONFIG_FILE: &str = "postern.toml";

/// An e-mail gateway for products that have conversations: mail in, message out.
///
/// Without a command it serves. Without a configuration it serves in development mode: on loopback only,
/// with generated secrets, and with its data in ./data.
#[derive(Debug, Parser)]
#[command(name = "postern", version, max_term_width = 100)]
pub struct Arguments {
    /// The configuration file; also set by POSTERN_CONFIG, by default /etc/postern/postern.toml if
    /// there is one
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<CliCommand>,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Receive and deliver mail until stopped (the default)
    Serve,
    /// Check a configuration and report every error in it
    #[command(visible_alias = "check")]
    CheckConfig(check::CheckConfigArgs),
    /// Mint, inspect and revoke reply tokens
    #[command(subcommand)]
    Token(token::TokenSubcommand),
    /// Explain a mail, inject one, or print one that would be sent
    #[command(subcommand)]
    Mail(mail::MailSubcommand),
    /// Show, release and drop the mail that is not settled
    #[command(subcommand)]
    Queue(queue::QueueSubcommand),
    /// Check or mend the journal of a server that does not run
    #[command(subcommand)]
    Store(store::StoreSubcommand),
    /// Check everything that the server needs
    Doctor(doctor::DoctorArgs),
}

impl Arguments {
    /// Reads the program's arguments.
    ///
    /// # Errors
    /// The exit code, after the help or the error has been printed.
    pub fn read() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            // If even the error cannot be printed, there is no other place for it.
            let _ = error.print();
            if error.use_stderr() {
                ExitCode::from(Exit::Usage.code())
            } else {
                ExitCode::SUCCESS
            }
        })
    }

    /// Runs the command and writes its output to `out`.
    ///
    /// # Errors
    /// The reason why the command failed, and the exit code.
    pub fn run(self, out: &mut impl Write) -> Result<(), ExitError> {
        let file = self
            .config
            .or_else(|| variable("POSTERN_CONFIG").map(PathBuf::from));
        let file = match file {
            None if self.command.as_ref().is_none_or(CliCommand::needs_config) => installed()?,
            file => file,
        };
        match self.command {
            None | Some(CliCommand::Serve) => serve::serve(file, out),
            Some(CliCommand::CheckConfig(check)) => check.run(file, out),
            Some(CliCommand::Token(token)) => token.run(file, out),
            Some(CliCommand::Mail(mail)) => mail.run(file, out),
            Some(CliCommand::Queue(queue)) => queue.run(file, out),
            Some(CliCommand::Store(store)) => store.run(file, out),
            Some(CliCommand::Doctor(doctor)) => doctor.run(file, out),
        }
    }
}

impl CliCommand {
    /// False if the command names its configuration itself.
    fn needs_config(&self) -> bool {
        !matches!(self, Self::CheckConfig(check) if check.names_file())
    }
}

/// The configuration file of an installation, which is the default: in the folder that systemd names, or in
/// its usual place. A line on standard error names it. A file without permission to read it counts too,
/// because its reader must not get a development server instead.
fn installed() -> Result<Option<PathBuf>, ExitError> {
    let folder = variable("CONFIGURATION_DIRECTORY").unwrap_or_else(|| CONFIG_FOLDER.into());
    let file = PathBuf::from(folder).join(CONFIG_FILE);
    if matches!(file.try_exists(), Ok(false)) {
        return Ok(None);
    }
    writeln!(io::stderr(), "postern: using {}", file.display())?;
    Ok(Some(file))
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Loads the configuration from `file` and the environment.
fn load(file: Option<PathBuf>, purpose: Purpose) -> Result<Loaded, ExitError> {
    let loaded = config::load(file.as_deref(), |name| env::var_os(name), purpose)?;
    Ok(loaded)
}

/// Runs one future to completion, for commands that are not servers.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, ExitError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}
