//! Owns `queue`: what waits, what is parked, and a person's word about it.
//!
//! Does not touch what is delivered: that is over.

use std::io::Write;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::Value;

use super::control::{ControlClient, query};
use super::terminal::printable;
use crate::config::Purpose;
use crate::run::{Exit, ExitError};
use crate::store::DeliveryId;

/// Commands of `queue`.
#[derive(Debug, Subcommand)]
pub(super) enum QueueSubcommand {
    /// Lists the mail that is not settled, oldest first, a line each
    List {
        /// Only the mail in this state
        #[arg(long, value_enum)]
        state: Option<ListedState>,
        /// Prints one JSON object a line
        #[arg(long)]
        json: bool,
        /// How many of each state at most
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Shows all that is known of one delivery, as JSON
    Show {
        /// The delivery, as in 1042.0
        id: String,
        /// Prints the mail instead, with our Received and Authentication-Results fields on top
        #[arg(long)]
        raw: bool,
    },
    /// Sends a parked delivery back to be tried again
    Retry {
        /// The delivery, as in 1042.0
        id: String,
        /// Reads the mail again from its bytes, by the rules of today; every attempt does
        #[arg(long)]
        reparse: bool,
    },
    /// Gives a parked delivery up for good
    Drop {
        /// The delivery, as in 1042.0
        id: String,
    },
}

/// Which mail is listed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ListedState {
    /// Waits for a person
    Parked,
    /// Waits for its turn
    Waiting,
}

impl QueueSubcommand {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        if let Self::Show { id, .. } | Self::Retry { id, .. } | Self::Drop { id } = &self
            && id.parse::<DeliveryId>().is_err()
        {
            let line = format!("{id:?}: not a delivery: they have the form 1042.0");
            return Err(ExitError::with_message(Exit::Usage, line));
        }
        let loaded = super::load(file, Purpose::Look)?;
        let desk = ControlClient::open(&loaded.config)?;
        let done = self.ask(&desk, out);
        desk.close();
        done
    }

    fn ask(&self, desk: &ControlClient, out: &mut impl Write) -> Result<(), ExitError> {
        match self {
            Self::List { state, json, limit } => {
                let states: &[ListedState] = match state {
                    Some(state) => &[*state],
                    None => &[ListedState::Parked, ListedState::Waiting],
                };
                for state in states {
                    list(desk, *state, *limit, &mut |delivery| {
                        print_line(delivery, *json, out)
                    })?;
                }
                Ok(())
            }
            Self::Show { id, raw: true } => {
                let mail = desk.fetch_bytes(&format!("/queue/{id}/raw"))?;
                out.write_all(&mail)?;
                Ok(())
            }
            Self::Show { id, raw: false } => {
                let answer = desk.request(Method::GET, &format!("/queue/{id}"), Vec::new())?;
                writeln!(out, "{}", printable_json(&answer["data"]))?;
                Ok(())
            }
            Self::Retry { id, reparse: _ } => act_on(desk, id, "retry", out),
            Self::Drop { id } => act_on(desk, id, "drop", out),
        }
    }
}

/// Walks the pages of one state, at most `limit` deliveries.
fn list(
    desk: &ControlClient,
    state: ListedState,
    limit: usize,
    each: &mut impl FnMut(&Value) -> Result<(), ExitError>,
) -> Result<(), ExitError> {
    const PAGE: usize = 100;
    let name = match state {
        ListedState::Parked => "parked",
        ListedState::Waiting => "waiting",
    };
    let mut left = limit;
    let mut after = String::new();
    while left > 0 {
        let page = left.min(PAGE).to_string();
        let mut pairs = vec![("state", name), ("limit", page.as_str())];
        if !after.is_empty() {
            pairs.push(("after", after.as_str()));
        }
        let answer = desk.request(Method::GET, &format!("/queue{}", query(&pairs)), Vec::new())?;
        for delivery in answer["data"].as_array().into_iter().flatten() {
            each(delivery)?;
            left = left.saturating_sub(1);
        }
        match answer["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    Ok(())
}

fn print_line(delivery: &Value, json: bool, out: &mut impl Write) -> Result<(), ExitError> {
    if json {
        writeln!(out, "{}", printable(&delivery.to_string()))?;
        return Ok(());
    }
    let text = |name: &str| delivery[name].as_str().unwrap_or("-").to_owned();
    let from = delivery["from"].as_str().unwrap_or("<>");
    let tried = delivery["attempts"].as_u64();
    let tried = tried.map(|times| format!("  tried {times}, next {}", text("dueAt")));
    let reason = delivery["reason"].as_str().map(|why| format!("  {why}"));
    let line = format!(
        "{}  {}  {}  {from} -> {}{}{}",
        text("id"),
        text("state"),
        text("receivedAt"),
        text("to"),
        tried.unwrap_or_default(),
        reason.unwrap_or_default()
    );
    writeln!(out, "{}", printable(&line))?;
    Ok(())
}

fn act_on(
    desk: &ControlClient,
    id: &str,
    word: &str,
    out: &mut impl Write,
) -> Result<(), ExitError> {
    let answer = desk.request(Method::POST, &format!("/queue/{id}/{word}"), Vec::new())?;
    let state = answer["data"]["state"].as_str().unwrap_or("done");
    writeln!(out, "{id} {}", printable(state))?;
    Ok(())
}

/// JSON for a terminal: it is indented, and control characters outside ASCII are escaped too.
pub(super) fn printable_json(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || printable(c.encode_utf8(&mut [0; 4])).len() == c.len_utf8() {
            shown.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    shown
}
