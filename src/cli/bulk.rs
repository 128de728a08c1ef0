//! Owns the commands of `queue` about many deliveries: they are selected, counted, confirmed and changed.
//!
//! Does not decide which deliveries may be changed.

use std::io::Write;

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::control::ControlClient;
use super::terminal::{is_confirmed, printable};
use crate::run::{Exit, ExitError};

/// The states that can be listed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ListedState {
    /// Mail that waits for a person
    Parked,
    /// Mail that waits for an attempt
    Waiting,
}

impl ListedState {
    /// The state, or all without one.
    pub(super) fn selected(state: Option<Self>) -> &'static [Self] {
        match state {
            Some(Self::Parked) => &[Self::Parked],
            Some(Self::Waiting) => &[Self::Waiting],
            None => &[Self::Parked, Self::Waiting],
        }
    }

    /// The name of the state in requests and responses.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Waiting => "waiting",
        }
    }
}

/// The selection of deliveries by more than their id.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Selection {
    /// Change every delivery that is selected, instead of one; all of them without another option
    #[arg(long)]
    pub(super) all: bool,
    /// Select only the deliveries in this state
    #[arg(long, value_enum, requires = "all")]
    pub(super) state: Option<ListedState>,
    /// Select only the deliveries of this route
    #[arg(long, value_name = "NAME", requires = "all")]
    pub(super) route: Option<String>,
    /// Select only the deliveries whose reason, as `queue list` shows it, contains this text
    #[arg(long, value_name = "TEXT", requires = "all")]
    pub(super) reason: Option<String>,
    /// Do not ask
    #[arg(long, requires = "all")]
    pub(super) yes: bool,
}

/// The selection for `park`, which only waiting deliveries allow, and which has its own reason.
#[derive(Clone, Debug, Args)]
pub(super) struct WaitingSelection {
    /// Park every waiting delivery that is selected, instead of one
    #[arg(long)]
    all: bool,
    /// Select only the deliveries of this route
    #[arg(long, value_name = "NAME", requires = "all")]
    route: Option<String>,
    /// Do not ask
    #[arg(long, requires = "all")]
    yes: bool,
}

impl WaitingSelection {
    pub(super) fn selection(&self) -> Selection {
        Selection {
            all: self.all,
            state: Some(ListedState::Waiting),
            route: self.route.clone(),
            reason: None,
            yes: self.yes,
        }
    }
}

/// An operation on the selected deliveries.
pub(super) struct BulkChange<'a> {
    pub(super) selection: Selection,
    /// `retry`, `park` or `drop`.
    pub(super) action: &'static str,
    /// The new state of a changed delivery.
    pub(super) state: &'static str,
    /// The reason for parking.
    pub(super) park_reason: Option<&'a str>,
}

/// The sum of the pages of one state.
#[derive(Default)]
struct Sum {
    selected: u64,
    changed: u64,
    delivered: u64,
    busy: u64,
    left: u64,
    last: Option<String>,
}

impl BulkChange<'_> {
    pub(super) fn run(
        &self,
        client: &ControlClient,
        out: &mut impl Write,
    ) -> Result<(), ExitError> {
        let mut counted = Vec::new();
        for state in ListedState::selected(self.selection.state) {
            let sum = self.pages(client, *state, ("count", None))?;
            counted.push((*state, sum));
        }
        let selected: u64 = counted.iter().map(|(_, sum)| sum.selected).sum();
        writeln!(out, "{selected} deliveries are selected")?;
        if selected == 0 {
            return Ok(());
        }
        let question = format!("{} all of them now? [yes/no] ", self.action);
        if !self.selection.yes && !is_confirmed(&question, out)? {
            let line = "nothing was changed: the command needs --yes, or \"yes\" on a terminal";
            return Err(ExitError::with_message(Exit::Usage, line));
        }
        let mut total = Sum::default();
        for (state, sum) in counted {
            // Mail that arrived after the count is not changed.
            let Some(until) = sum.last else { continue };
            let done = self.pages(client, state, (self.action, Some(&until)))?;
            total.changed += done.changed;
            total.delivered += done.delivered;
            total.busy += done.busy;
            total.left += done.left;
        }
        self.report(&total, out)
    }

    fn report(&self, total: &Sum, out: &mut impl Write) -> Result<(), ExitError> {
        writeln!(out, "{} {}", total.changed, self.state)?;
        for (count, text) in [
            (
                total.delivered,
                "delivered: the product has their messages already",
            ),
            (total.busy, "left: they are being delivered now"),
            (
                total.left,
                "left: they wait behind others, or their state has changed",
            ),
        ] {
            if count > 0 {
                writeln!(out, "{count} {text}")?;
            }
        }
        Ok(())
    }

    /// Requests every page of one state.
    fn pages(
        &self,
        client: &ControlClient,
        state: ListedState,
        (action, until): (&str, Option<&str>),
    ) -> Result<Sum, ExitError> {
        let mut sum = Sum::default();
        let mut after: Option<String> = None;
        loop {
            let body = json!({
                "action": action,
                "state": state.name(),
                "route": self.selection.route,
                "reason": self.selection.reason,
                "parkReason": self.park_reason,
                "after": after,
                "until": until,
            });
            let body = body.to_string().into_bytes();
            let page = &client.request(Method::POST, "/queue", body)?["data"];
            sum.add(page);
            match page["next"].as_str() {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok(sum),
            }
        }
    }
}

impl Sum {
    fn add(&mut self, page: &Value) {
        let count = |name: &str| page[name].as_u64().unwrap_or_default();
        self.selected += count("selected");
        self.changed += count("changed");
        self.delivered += count("delivered");
        self.busy += count("busy");
        self.left += count("left");
        if let Some(last) = page["last"].as_str() {
            self.last = Some(printable(last).into_owned());
        }
    }
}
