//! Owns `store`: reads the journal of a server that does not run, and mends it.
//!
//! Does not know the contents of a journal.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;

use clap::Subcommand;

use super::control::own_folder;
use super::terminal::{is_confirmed, printable};
use crate::clock;
use crate::config::{Config, Purpose};
use crate::run::{self, Exit, ExitError};
use crate::store::{self, CheckReport, MendReport};

/// The maximum number of listed names of one kind.
const LISTED_MAX: usize = 100;

/// Commands of `store`.
#[derive(Debug, Subcommand)]
pub(super) enum StoreSubcommand {
    /// Read every record of the journal and report what is damaged or missing
    Check,
    /// Set aside what is damaged, so that the server starts, and report what is lost
    Mend {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

impl StoreSubcommand {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        let loaded = super::load(file, Purpose::Look)?;
        own_folder(&loaded.config)?;
        match self {
            Self::Check => check(&loaded.config, out),
            Self::Mend { yes } => mend(&loaded.config, yes, out),
        }
    }
}

fn check(config: &Config, out: &mut impl Write) -> Result<(), ExitError> {
    let report = store::check(&config.store).map_err(run::store_open_error)?;
    for note in &report.notes {
        line(out, &format!("note  {note}"))?;
    }
    for damage in &report.damages {
        line(out, &format!("fail  {damage}"))?;
    }
    if report.unlisted > 0 {
        line(out, &format!("fail  {} more damages", report.unlisted))?;
    }
    line(out, &read(&report))?;
    match found(&report) {
        0 => Ok(()),
        found => Err(ExitError::with_message(
            Exit::Malformed,
            format!(
                "{found} damages in {}: `postern store mend` sets them aside and says what is lost",
                config.data_dir.display()
            ),
        )),
    }
}

/// The numbers of segments, records and bytes that were read.
pub(super) fn read(report: &CheckReport) -> String {
    format!(
        "{} records in {} segments ({} bytes) are as they were written",
        report.records, report.segments, report.bytes
    )
}

/// The number of damages.
pub(super) const fn found(report: &CheckReport) -> u64 {
    report.damages.len() as u64 + report.unlisted
}

fn mend(config: &Config, yes: bool, out: &mut impl Write) -> Result<(), ExitError> {
    if !yes && !confirmed(config, out)? {
        let line = "nothing was changed: the command needs --yes, or \"yes\" on a terminal";
        return Err(ExitError::with_message(Exit::Usage, line));
    }
    let mended = store::mend(&config.store, clock::now()).map_err(run::store_open_error)?;
    match mended {
        Some(report) => tell(&report, out),
        None => line(out, "nothing is damaged, and nothing was changed"),
    }
}

/// Shows the damage and asks a person.
fn confirmed(config: &Config, out: &mut impl Write) -> Result<bool, ExitError> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    // The last line of a check recommends this command.
    if let Err(damaged) = check(config, out) {
        for damage in damaged.lines() {
            line(out, damage)?;
        }
    }
    is_confirmed(
        "Copy the folder first if you can. Mend it now? [yes/no] ",
        out,
    )
}

fn tell(report: &MendReport, out: &mut impl Write) -> Result<(), ExitError> {
    for damage in &report.damages {
        line(out, &format!("found: {damage}"))?;
    }
    if report.unlisted > 0 {
        line(out, &format!("found: {} more damages", report.unlisted))?;
    }
    for file in &report.aside {
        line(out, &format!("set aside: {file}"))?;
    }
    let counts = [
        ("mail records lost, at most", report.mail_records),
        ("fact records lost, at most", report.fact_records),
        (
            "deliveries lost that waited or were parked",
            report.lost_deliveries,
        ),
        (
            "jobs lost",
            (report.lost_jobs.len() as u64).max(report.uncounted_jobs),
        ),
        ("mappings of threads lost", report.mappings),
        ("deliveries settled by what the index knew", report.settled),
        (
            "deliveries parked, for they may have been delivered",
            report.parked.len() as u64,
        ),
        (
            "jobs held as failed, for they may have been sent",
            report.held_jobs.len() as u64,
        ),
    ];
    for (what, count) in counts {
        line(out, &format!("{what}: {count}"))?;
    }
    list(out, "lost mail", &report.lost_mails)?;
    list(out, "lost job", &report.lost_jobs)?;
    list(out, "parked", &report.parked)?;
    list(out, "held job", &report.held_jobs)?;
    line(out, "the folder is mended: the server can start")
}

fn list<T: Display>(
    out: &mut impl Write,
    what: &str,
    names: &BTreeSet<T>,
) -> Result<(), ExitError> {
    for name in names.iter().take(LISTED_MAX) {
        line(out, &format!("{what}: {name}"))?;
    }
    match names.len().saturating_sub(LISTED_MAX) {
        0 => Ok(()),
        more => line(out, &format!("{what}: {more} more")),
    }
}

fn line(out: &mut impl Write, text: &str) -> Result<(), ExitError> {
    writeln!(out, "{}", printable(text))?;
    Ok(())
}
