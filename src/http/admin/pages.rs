//! Owns the values and the templates of the pages.
//!
//! Does not query anything.

use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;
use thiserror::Error;

use crate::mail::view::View;
use crate::queue::QueuedJob;
use crate::store::{AttemptRecord, JobState, OutboxLedger};

/// The number of characters of a mail's text that a page shows.
const TEXT_CHARS_MAX: usize = 20_000;

/// The templates of the pages.
pub(super) struct AdminPages(Environment<'static>);

/// The error of a template that cannot be rendered.
#[derive(Debug, Error)]
#[error("template")]
pub(super) struct PageError(#[from] minijinja::Error);

impl AdminPages {
    #[expect(
        clippy::expect_used,
        reason = "the templates are compiled in, and a test fills each of them in"
    )]
    pub(super) fn new() -> Self {
        let mut templates = Environment::new();
        templates.set_auto_escape_callback(|_| AutoEscape::Html);
        for (name, source) in [
            ("frame", include_str!("frame.html.jinja")),
            ("list", include_str!("list.html.jinja")),
            ("job", include_str!("job.html.jinja")),
        ] {
            let added = templates.add_template(name, source);
            added.expect("a template of ours is a template");
        }
        Self(templates)
    }

    pub(super) fn list(
        &self,
        state: &str,
        jobs: &[QueuedJob],
        ledger: OutboxLedger,
        full: usize,
    ) -> Result<String, PageError> {
        let rows: Vec<JobView> = jobs.iter().map(JobView::of).collect();
        let next = (rows.len() == full).then(|| rows.last().map(|row| row.id.clone()));
        let states = vec![
            "all",
            "waiting",
            "captured",
            "sent",
            "failed",
            "bounced",
            "cancelled",
        ];
        let (rows, ledger) = (Value::from(Serde(rows)), Value::from(Serde(ledger)));
        let filled = context! { state, states, rows, ledger, next => next.flatten() };
        Ok(self.0.get_template("list")?.render(filled)?)
    }

    pub(super) fn job(&self, queued: &QueuedJob, view: Option<&View>) -> Result<String, PageError> {
        let record = &queued.record;
        let history: Vec<HistoryLine<'_>> = record.history.iter().map(HistoryLine::of).collect();
        let mail = view.map(MailView::of);
        let job = JobView::of(queued);
        let filled = context! {
            job => Serde(job),
            history => Serde(history),
            mail => Serde(mail),
        };
        Ok(self.0.get_template("job")?.render(filled)?)
    }
}

/// A job as a page shows it.
#[derive(Serialize)]
struct JobView {
    id: String,
    state: &'static str,
    reason: Option<String>,
    due: Option<String>,
    waits_behind: Option<String>,
    recipient: String,
    subject: String,
    thread: Option<String>,
    message: Option<String>,
    message_id: String,
    made: String,
    attempts: u32,
}

impl JobView {
    fn of(queued: &QueuedJob) -> Self {
        let record = &queued.record;
        let (job, mut reason, mut due) = (&record.job, None, None);
        match &record.state {
            JobState::Waiting { due_at } => due = Some(due_at.to_rfc3339()),
            JobState::Failed { reason: why } | JobState::Bounced { reason: why } => {
                reason = Some(why.clone());
            }
            JobState::Sent | JobState::Captured | JobState::Cancelled => {}
        }
        Self {
            id: job.id.to_string(),
            state: record.state.name(),
            reason,
            due,
            waits_behind: queued.waits_behind.map(|first| first.to_string()),
            recipient: job.recipient.to_string(),
            subject: job.subject.clone(),
            thread: job.thread_id.clone(),
            message: job.product_message_id.clone(),
            message_id: job.message_id.clone(),
            made: job.made_at.to_rfc3339(),
            attempts: record.attempts,
        }
    }
}

/// An entry of a job's history.
#[derive(Serialize)]
struct HistoryLine<'r> {
    at: String,
    what: &'r str,
    relay: Option<&'r str>,
    reply: &'r str,
}

impl<'r> HistoryLine<'r> {
    fn of(trial: &'r AttemptRecord) -> Self {
        Self {
            at: trial.at.to_rfc3339(),
            what: &trial.what,
            relay: trial.relay.as_deref(),
            reply: &trial.reply,
        }
    }
}

/// The mail of a job.
#[derive(Serialize)]
struct MailView<'v> {
    fields: Vec<(&'v str, &'v str)>,
    text: String,
    html: bool,
    attachments: Vec<(String, usize)>,
}

impl<'v> MailView<'v> {
    fn of(view: &'v View) -> Self {
        let field = |name: &'static str| view.header.header(name).map(|value| (name, value));
        let names = [
            "From",
            "Reply-To",
            "To",
            "Cc",
            "Subject",
            "Date",
            "Message-ID",
            "In-Reply-To",
            "References",
            "Auto-Submitted",
        ];
        let text = view.text.as_deref().unwrap_or_default();
        let file = |file: &crate::mail::view::Attachment| {
            let name = file.filename.clone();
            (name.unwrap_or_else(|| "(no name)".to_owned()), file.size)
        };
        Self {
            fields: names.into_iter().filter_map(field).collect(),
            text: text.chars().take(TEXT_CHARS_MAX).collect(),
            html: view.html.is_some(),
            attachments: view.attachments.iter().map(file).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::address::Address;
    use crate::mail::job_id::JobId;
    use crate::store::{Job, JobRecord};

    const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}";

    fn queued(state: JobState) -> QueuedJob {
        let at = Timestamp::from_secs(1_700_000_000);
        let record = JobRecord {
            job: Job {
                id: JobId([7; 16]),
                route: "default".to_owned(),
                thread_id: Some(HOSTILE.to_owned()),
                product_message_id: Some(HOSTILE.to_owned()),
                message_id: "<a@b.example>".to_owned(),
                recipient: Address::parse("jane@example.net").unwrap(),
                return_path: None,
                subject: HOSTILE.to_owned(),
                key: [1; 16],
                second_key: None,
                content: [2; 16],
                made_at: at,
                ends_at: at,
            },
            state,
            begun_at: None,
            attempts: 2,
            doubts: 0,
            history: vec![AttemptRecord {
                at,
                what: "deferred".to_owned(),
                relay: Some("relay.example:25".to_owned()),
                reply: HOSTILE.to_owned(),
            }],
        };
        QueuedJob {
            record,
            waits_behind: None,
        }
    }

    #[test]
    fn foreign_text_is_escaped() {
        let pages = AdminPages::new();
        let reason = HOSTILE.to_owned();
        let job = queued(JobState::Failed { reason });
        let mail = Bytes::from(format!("Subject: {HOSTILE}\r\n\r\n{HOSTILE}\r\n"));
        let view = View::parse(&mail);
        let list = pages.list(
            "all",
            std::slice::from_ref(&job),
            OutboxLedger::default(),
            1,
        );
        for page in [list.unwrap(), pages.job(&job, Some(&view)).unwrap()] {
            assert!(!page.contains("<img"), "{page}");
            assert!(page.contains("&lt;img src=x"), "{page}");
            assert!(page.contains("{{ 7 * 7 }}"), "{page}");
        }
    }

    #[test]
    fn a_page_for_every_state() {
        let pages = AdminPages::new();
        let due_at = Timestamp::from_secs(1_700_000_000);
        let reason = "gone".to_owned();
        for state in [
            JobState::Waiting { due_at },
            JobState::Sent,
            JobState::Captured,
            JobState::Cancelled,
            JobState::Bounced { reason },
        ] {
            let word = state.name();
            let page = pages.job(&queued(state), None).unwrap();
            assert!(page.contains(&format!("class=\"state {word}\"")), "{page}");
        }
        let behind = QueuedJob {
            waits_behind: Some(JobId([9; 16])),
            ..queued(JobState::Waiting { due_at })
        };
        let words = format!("waits behind {}", JobId([9; 16]));
        let list = pages.list(
            "all",
            std::slice::from_ref(&behind),
            OutboxLedger::default(),
            50,
        );
        assert!(list.unwrap().contains(&words));
        let page = pages.job(&behind, None).unwrap();
        assert!(
            page.contains("waits behind <a") && !page.contains("/retry"),
            "{page}"
        );
        let empty = pages
            .list("failed", &[], OutboxLedger::default(), 50)
            .unwrap();
        assert!(empty.contains("No mail in this state"), "{empty}");
    }
}
