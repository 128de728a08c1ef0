//! Owns `queue`: lists, shows, retries, parks and drops the mail that is not settled.
//!
//! Does not change settled mail.

use std::io::Write;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::control::{ControlClient, query};
use super::terminal::{printable, printable_json};
use crate::config::Purpose;
use crate::run::{Exit, ExitError};
use crate::store::DeliveryId;

/// Commands of `queue`.
#[derive(Debug, Subcommand)]
pub(super) enum QueueSubcommand {
    /// List the mail that is not settled, oldest first, one line each
    List {
        /// List only the mail in this state
        #[arg(long, value_enum)]
        state: Option<ListedState>,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
        /// The maximum number of each state
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Show everything known about one delivery, as JSON
    Show {
        /// The delivery, for example 1042.0
        id: String,
        /// Print the mail instead, with our Received and Authentication-Results fields on top
        #[arg(long)]
        raw: bool,
    },
    /// Try a delivery now: a parked one with your approval, a waiting one without its wait
    Retry {
        /// The delivery, for example 1042.0
        id: String,
        /// Parse the mail again by the current rules; every attempt does so anyway
        #[arg(long)]
        reparse: bool,
    },
    /// Park a waiting delivery, so that later mail of its thread is delivered
    Park {
        /// The delivery, for example 1042.0
        id: String,
        /// The reason, which `queue list` shows
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Drop a parked or a waiting delivery permanently
    Drop {
        /// The delivery, for example 1042.0
        id: String,
    },
}

/// The states that can be listed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ListedState {
    /// Mail that waits for a person
    Parked,
    /// Mail that waits for an attempt
    Waiting,
}

impl QueueSubcommand {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        if let Self::Show { id, .. }
        | Self::Retry { id, .. }
        | Self::Park { id, .. }
        | Self::Drop { id } = &self
            && id.parse::<DeliveryId>().is_err()
        {
            let line = format!("{id:?}: not a delivery: they have the form 1042.0");
            return Err(ExitError::with_message(Exit::Usage, line));
        }
        let loaded = super::load(file, Purpose::Look)?;
        let client = ControlClient::open(&loaded.config)?;
        let done = self.ask(&client, out);
        client.close();
        done
    }

    fn ask(&self, client: &ControlClient, out: &mut impl Write) -> Result<(), ExitError> {
        match self {
            Self::List { state, json, limit } => {
                let states: &[ListedState] = match state {
                    Some(state) => &[*state],
                    None => &[ListedState::Parked, ListedState::Waiting],
                };
                for state in states {
                    list(client, *state, *limit, &mut |delivery| {
                        print_line(delivery, *json, out)
                    })?;
                }
                Ok(())
            }
            Self::Show { id, raw: true } => {
                let mail = client.fetch_bytes(&format!("/queue/{id}/raw"))?;
                out.write_all(&mail)?;
                Ok(())
            }
            Self::Show { id, raw: false } => {
                let answer = client.request(Method::GET, &format!("/queue/{id}"), Vec::new())?;
                writeln!(out, "{}", printable_json(&answer["data"]))?;
                Ok(())
            }
            Self::Retry { id, reparse: _ } => act_on(client, id, ("retry", Vec::new()), out),
            Self::Park { id, reason } => {
                let body = json!({ "reason": reason }).to_string();
                act_on(client, id, ("park", body.into_bytes()), out)
            }
            Self::Drop { id } => act_on(client, id, ("drop", Vec::new()), out),
        }
    }
}

/// Requests the pages of one state, at most `limit` deliveries.
fn list(
    client: &ControlClient,
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
        let answer =
            client.request(Method::GET, &format!("/queue{}", query(&pairs)), Vec::new())?;
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
    let first = delivery["waitsBehind"].as_str();
    let first = first.map(|first| format!("  waits behind {first}"));
    let reason = delivery["reason"].as_str().map(|why| format!("  {why}"));
    let line = format!(
        "{}  {}  {}  {from} -> {}{}{}{}",
        text("id"),
        text("state"),
        text("receivedAt"),
        text("to"),
        tried.unwrap_or_default(),
        first.unwrap_or_default(),
        reason.unwrap_or_default()
    );
    writeln!(out, "{}", printable(&line))?;
    Ok(())
}

fn act_on(
    client: &ControlClient,
    id: &str,
    (word, body): (&str, Vec<u8>),
    out: &mut impl Write,
) -> Result<(), ExitError> {
    let answer = client.request(Method::POST, &format!("/queue/{id}/{word}"), body)?;
    let state = answer["data"]["state"].as_str().unwrap_or("done");
    writeln!(out, "{id} {}", printable(state))?;
    Ok(())
}
