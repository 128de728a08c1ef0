//! Owns `[events]`: the subscribers to events, and their retry limits.
//!
//! Does not send anything.

use std::time::Duration;

use super::reader::Section;
use crate::events::{EventWebhook, EventWebhookSettings, SubscriberSettings, WebhookSigner};
use crate::retry;
use crate::store::EventKind;

/// Characters of a subscriber's name.
const NAME_CHARS_MAX: usize = 64;
/// The maximum number of subscribers: each has separate requests and memory.
const SUBSCRIBERS_MAX: usize = 16;

/// The subscribers to events.
#[derive(Clone, Debug)]
pub struct EventsConfig {
    /// True if each event is logged.
    pub log: bool,
    /// The webhooks.
    pub hooks: Vec<(SubscriberSettings, EventWebhook)>,
}

/// Reads the table.
pub(super) fn read(mut section: Section<'_>) -> EventsConfig {
    let log = section.switch("log", true);
    let mut hooks: Vec<(SubscriberSettings, EventWebhook)> = Vec::new();
    for table in section.tables("webhook").unwrap_or_default() {
        let problem = |why: &str| Err(why.to_owned());
        let known: Vec<&str> = hooks.iter().map(|(s, _)| s.name.as_str()).collect();
        let name = |text: &str| match text {
            "" | "log" => problem("not a name for a subscriber"),
            _ if text.chars().count() > NAME_CHARS_MAX => problem("too long"),
            _ if known.contains(&text) => problem("another one has this name"),
            _ => Ok(text.to_owned()),
        };
        hooks.extend(hook(table, name));
    }
    if hooks.len() > SUBSCRIBERS_MAX {
        section.problem("webhook", format!("more than {SUBSCRIBERS_MAX}"));
    }
    section.end();
    EventsConfig { log, hooks }
}

fn hook(
    mut section: Section<'_>,
    name: impl Fn(&str) -> Result<String, String>,
) -> Option<(SubscriberSettings, EventWebhook)> {
    let empty = section.given_keys().is_empty();
    let url = section.text_maybe("url");
    if url.is_none() && !empty {
        section.problem("url", "missing");
    }
    let name = section.parsed_or("name", "default", name);
    let kind = |text: &str| {
        let mut all = EventKind::ALL.into_iter();
        let found = all.find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("no event has the name {text}"))
    };
    let kinds = section.list("kinds", Some(&[]), kind);
    let mut signers = Vec::new();
    for key in ["secret", "secret_old"] {
        let secret = section.secret(key);
        if !empty && secret.is_none() && key == "secret" && !section.is_given("secret_file") {
            section.problem(key, "missing: set it, or secret_file");
        }
        match secret.map(|secret| WebhookSigner::parse(secret.reveal())) {
            Some(Ok(signer)) => signers.push(signer),
            Some(Err(error)) => section.problem(key, error.to_string()),
            None => {}
        }
    }
    let seconds = |from, to| Duration::from_secs(from)..=Duration::from_secs(to);
    let timeout = section.duration("timeout", Duration::from_secs(15), seconds(1, 120));
    let defaults = SubscriberSettings::new(String::new()).retry;
    let ages = seconds(60, 90 * 24 * 60 * 60);
    let retry = retry::Settings {
        max_age: section.duration("max_age", defaults.max_age, ages),
        ..defaults
    };
    let made = url.map(|url| {
        EventWebhook::new(EventWebhookSettings {
            url,
            signers,
            timeout,
        })
    });
    let made = match made {
        Some(Err(error)) => {
            section.problem("url", error.to_string());
            None
        }
        Some(Ok(hook)) => Some(hook),
        None => None,
    };
    section.end();
    let settings = SubscriberSettings {
        name: name?,
        kinds: kinds?,
        retry,
    };
    Some((settings, made?))
}
