//! Owns `queue`: lists, shows, retries, parks and drops the mail that is not settled.
//!
//! Does not change settled mail.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::bulk::{BulkChange, ListedState, Selection, WaitingSelection};
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
        /// List only the mail of this route
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// List only the mail whose reason contains this text
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
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
        #[arg(required_unless_present = "all", conflicts_with_all = ["all", "state", "route", "reason", "yes"])]
        id: Option<String>,
        #[command(flatten)]
        selection: Selection,
        /// Parse the mail again by the current rules; every attempt does so anyway
        #[arg(long)]
        reparse: bool,
    },
    /// Park a waiting delivery, so that later mail of its thread is delivered
    Park {
        /// The delivery, for example 1042.0
        #[arg(required_unless_present = "all", conflicts_with_all = ["all", "route", "yes"])]
        id: Option<String>,
        #[command(flatten)]
        selection: WaitingSelection,
        /// The reason, which `queue list` shows
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Drop a parked or a waiting delivery permanently
    Drop {
        /// The delivery, for example 1042.0
        #[arg(required_unless_present = "all", conflicts_with_all = ["all", "state", "route", "reason", "yes"])]
        id: Option<String>,
        #[command(flatten)]
        selection: Selection,
    },
}

impl QueueSubcommand {
    /// The delivery that the command is about, if it is about one.
    fn delivery(&self) -> Option<&str> {
        match self {
            Self::List { .. } => None,
            Self::Show { id, .. } => Some(id),
            Self::Retry { id, .. } | Self::Park { id, .. } | Self::Drop { id, .. } => id.as_deref(),
        }
    }

    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        if let Some(id) = self.delivery()
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
            Self::List {
                state,
                route,
                reason,
                json,
                limit,
            } => {
                let is_listed = |delivery: &Value| {
                    let told = |name: &str| delivery[name].as_str().unwrap_or_default();
                    route.as_ref().is_none_or(|name| told("route") == name)
                        && reason
                            .as_ref()
                            .is_none_or(|text| told("reason").contains(text))
                };
                for state in ListedState::selected(*state) {
                    list(client, *state, *limit, &mut |delivery| {
                        let listed = is_listed(delivery);
                        if listed {
                            print_line(delivery, *json, out)?;
                        }
                        Ok(listed)
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
            Self::Retry { id, selection, .. } => match id {
                Some(id) => act_on(client, id, ("retry", Vec::new()), out),
                None => change_all(("retry", "waiting"), selection, client, out),
            },
            Self::Park {
                id: Some(id),
                reason,
                ..
            } => {
                let body = json!({ "reason": reason }).to_string();
                act_on(client, id, ("park", body.into_bytes()), out)
            }
            Self::Park {
                id: None,
                selection,
                reason,
            } => BulkChange {
                selection: selection.selection(),
                action: "park",
                state: "parked",
                park_reason: reason.as_deref(),
            }
            .run(client, out),
            Self::Drop { id, selection } => match id {
                Some(id) => act_on(client, id, ("drop", Vec::new()), out),
                None => change_all(("drop", "dropped"), selection, client, out),
            },
        }
    }
}

fn change_all(
    (action, state): (&'static str, &'static str),
    selection: &Selection,
    client: &ControlClient,
    out: &mut impl Write,
) -> Result<(), ExitError> {
    let change = BulkChange {
        selection: selection.clone(),
        action,
        state,
        park_reason: None,
    };
    change.run(client, out)
}

/// Requests the pages of one state, until `each` has taken `limit` deliveries.
fn list(
    client: &ControlClient,
    state: ListedState,
    limit: usize,
    each: &mut impl FnMut(&Value) -> Result<bool, ExitError>,
) -> Result<(), ExitError> {
    const PAGE: usize = 100;
    let name = state.name();
    let mut left = limit;
    let mut after = String::new();
    while left > 0 {
        let page = PAGE.to_string();
        let mut pairs = vec![("state", name), ("limit", page.as_str())];
        if !after.is_empty() {
            pairs.push(("after", after.as_str()));
        }
        let answer =
            client.request(Method::GET, &format!("/queue{}", query(&pairs)), Vec::new())?;
        for delivery in answer["data"].as_array().into_iter().flatten() {
            left -= usize::from(left > 0 && each(delivery)?);
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
