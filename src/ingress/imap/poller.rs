//! Owns the polling of one folder: from the last UID on, in groups, each stored before it is marked at the
//! server; and the waits between polls and between connections.
//!
//! Does not know IMAP's syntax; `client` does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::client::{ImapClient, LISTED_MAX, ListedMail, SelectedFolder};
use super::settings::{InitialFetch, Settings};
use super::transfer::{ImapAccount, SkippedMail};
use super::transport::ImapFault;
use crate::clock::{self, Timestamp};
use crate::mail::text::one_line;
use crate::random;
use crate::retry::{self, NextStep};
use crate::store::{Fact, ImapPosition};

/// The number of UIDs that are listed at a time. The span doubles if it contains no mail.
const SPAN: u32 = 1_000;
/// The number of mails that are fetched with one command.
const GROUP_MAX: usize = 16;
/// Octets of mails that are fetched with one command; a longer mail is fetched alone.
const GROUP_BYTES_MAX: u64 = 1 << 20;
/// The number of mails after which the position is recorded.
const UNRECORDED_MAX: usize = 100;
/// The number of consecutive failures at one mail after which it is skipped.
const ATTEMPTS_MAX: u32 = 5;
/// The shortest wait between two polls.
const POLL_WAIT_MIN: Duration = Duration::from_millis(100);
/// The maximum wait: a server may disconnect a client that is idle for half an hour (RFC 2177).
const WAIT_MAX: Duration = Duration::from_secs(25 * 60);
/// The additional steps of back-off after a refused login, because servers lock out clients that try too
/// often.
const REFUSED_STEPS: u32 = 4;

/// One folder.
pub(super) struct FolderPoller {
    account: Arc<ImapAccount>,
    folder: String,
    /// The folder's name in the store.
    mailbox: String,
    stop: watch::Receiver<bool>,
    /// The recorded position.
    recorded: Option<ImapPosition>,
    suspects: Option<SuspectMails>,
    /// Mails after the position that were skipped and logged already.
    skipped: BTreeSet<u32>,
    /// True if a poll succeeded since the last failure.
    has_polled: bool,
}

/// Mails at which the last connection failed.
#[derive(Clone, Copy, Debug)]
struct SuspectMails {
    first: u32,
    last: u32,
    /// The number of failures at `first`, fetched alone.
    attempts: u32,
}

/// The progress of a poll.
struct PollProgress {
    position: ImapPosition,
    unrecorded: usize,
}

impl FolderPoller {
    pub(super) fn new(
        account: Arc<ImapAccount>,
        folder: String,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let Settings { host, user, .. } = &account.settings;
        Self {
            mailbox: format!("{user}@{host}/{folder}"),
            account,
            folder,
            stop,
            recorded: None,
            suspects: None,
            skipped: BTreeSet::new(),
            has_polled: false,
        }
    }

    /// Polls the folder until it is stopped.
    pub(super) async fn run(mut self) {
        let mut attempts: u32 = 0;
        while !self.is_stopped() {
            let before = self.recorded;
            let Err(fault) = self.run_connection().await else {
                return;
            };
            self.account.metrics.reconnects();
            // Any progress resets the back-off.
            if std::mem::take(&mut self.has_polled) || self.recorded != before {
                attempts = 0;
            }
            attempts += 1;
            let shift = match fault {
                ImapFault::Refused {
                    what: "LOGIN" | "AUTHENTICATE",
                    ..
                } => REFUSED_STEPS,
                _ => 0,
            };
            let wait = self.wait_after(attempts.saturating_add(shift));
            warn!(
                protocol = "imap",
                folder = %self.folder.escape_debug(),
                error = describe_fault(&fault),
                attempts,
                wait_ms = wait.as_millis(),
                "connection failed"
            );
            tokio::select! {
                () = sleep(wait) => {}
                () = wait_stopped(&mut self.stop) => {}
            }
        }
    }

    fn wait_after(&self, attempts: u32) -> Duration {
        let outcome = retry::AttemptFailure::Transient { retry_after: None };
        let settings = &self.account.settings.retry;
        match retry::next_step(
            settings,
            outcome,
            attempts,
            Duration::ZERO,
            random::number(),
        ) {
            NextStep::Retry { after } => after,
            NextStep::Park { .. } => settings.wait_max,
        }
    }

    /// Runs one connection, until it fails or the fetcher stops.
    async fn run_connection(&mut self) -> Result<(), ImapFault> {
        let account = Arc::clone(&self.account);
        let mut stop = self.stop.clone();
        let connecting = account.connector.connect(&account.settings);
        let mut dialogue = tokio::select! {
            dialogue = connecting => dialogue?,
            () = wait_stopped(&mut stop) => return Ok(()),
        };
        let _connected = account.metrics.connected();
        info!(protocol = "imap", folder = %self.folder.escape_debug(), "connected");
        loop {
            self.poll(&mut dialogue).await?;
            self.has_polled = true;
            if !self.is_stopped() {
                tokio::select! {
                    waited = self.wait(&mut dialogue) => waited?,
                    () = wait_stopped(&mut stop) => {}
                }
            }
            if self.is_stopped() {
                // After an interrupted IDLE the session cannot log out, and need not.
                if !account.settings.uses_idle {
                    dialogue.logout().await;
                }
                return Ok(());
            }
        }
    }

    /// Waits for the next poll.
    async fn wait(&self, dialogue: &mut ImapClient) -> Result<(), ImapFault> {
        let settings = &self.account.settings;
        let until = Instant::now() + settings.poll_interval.min(WAIT_MAX);
        sleep(POLL_WAIT_MIN).await;
        if dialogue.has_new_mail() {
            return Ok(());
        }
        if settings.uses_idle && dialogue.has_capability("IDLE") {
            return dialogue.idle(until).await;
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }

    /// Polls the folder, from the last processed UID to the end.
    async fn poll(&mut self, dialogue: &mut ImapClient) -> Result<(), ImapFault> {
        let selected = dialogue.select(&self.folder).await?;
        if selected.is_read_only {
            warn!(protocol = "imap", folder = %self.folder.escape_debug(), "folder is read-only: mails are accepted, but cannot be marked");
        }
        let mut look = PollProgress {
            position: self.start_position(selected).await?,
            unrecorded: 0,
        };
        let went = self.poll_range(dialogue, selected, &mut look).await;
        // The progress is recorded even after a failure.
        let recorded = self.record(&mut look).await;
        went.and(recorded)
    }

    async fn poll_range(
        &mut self,
        dialogue: &mut ImapClient,
        selected: SelectedFolder,
        look: &mut PollProgress,
    ) -> Result<(), ImapFault> {
        let end = selected
            .uid_next
            .map_or(u32::MAX, |next| next.saturating_sub(1));
        // Without UIDNEXT a single listing covers the whole folder.
        let span = selected.uid_next.map_or(u32::MAX, |_| SPAN);
        let mut width = span;
        let mut first = look.position.uid.saturating_add(1);
        while first <= end && first > look.position.uid && !self.is_stopped() {
            let last = first.saturating_add(width - 1).min(end);
            let listed = dialogue.list_mails(first, last).await?;
            let (last, width_next) = match listed.last_key_value() {
                None => (last, width.saturating_mul(2)),
                Some((highest, _)) if listed.len() == LISTED_MAX => (*highest, span),
                Some(_) => (last, span),
            };
            self.fetch_listed(dialogue, &listed, look).await?;
            width = width_next;
            match last.checked_add(1) {
                Some(next) => first = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Fetches the mails of a listing that are not skipped, in the order of their UIDs.
    async fn fetch_listed(
        &mut self,
        dialogue: &mut ImapClient,
        listed: &BTreeMap<u32, ListedMail>,
        look: &mut PollProgress,
    ) -> Result<(), ImapFault> {
        let mut group: Vec<(u32, u64)> = Vec::new();
        for (uid, mail) in listed {
            if self.is_stopped() {
                return Ok(());
            }
            if let Some(reason) = self.skip_reason(*uid, mail, &look.position) {
                if reason != REASON_OLD {
                    let (uid, bytes) = (*uid, mail.bytes);
                    self.skip(SkippedMail { uid, reason, bytes });
                }
                continue;
            }
            let bytes: u64 = group.iter().map(|(_, bytes)| bytes).sum();
            // The mails of a failed group are fetched one by one, to find the cause.
            let has_trouble =
                |first: &(u32, u64)| self.suspects.is_some_and(|trouble| first.0 <= trouble.last);
            let alone = group.first().is_some_and(has_trouble);
            let fits = group.len() < GROUP_MAX && bytes + mail.bytes <= GROUP_BYTES_MAX;
            if !group.is_empty() && (alone || !fits) {
                self.fetch_group(dialogue, &group, look).await?;
                group.clear();
            }
            group.push((*uid, mail.bytes));
        }
        if !group.is_empty() {
            self.fetch_group(dialogue, &group, look).await?;
        }
        if let Some((last, _)) = listed.last_key_value() {
            self.advance(look, *last);
        }
        self.record_if_due(look, listed.len() / 10).await
    }

    /// The reason why a mail is skipped without fetching.
    fn skip_reason(
        &self,
        uid: u32,
        mail: &ListedMail,
        position: &ImapPosition,
    ) -> Option<&'static str> {
        let came_later = mail.arrived.is_some_and(|at| at > position.since);
        if uid < position.old_below && mail.is_seen && !came_later {
            return Some(REASON_OLD);
        }
        if mail.bytes > self.account.settings.mail_bytes_max as u64 {
            return Some("too_big");
        }
        let trouble = self.suspects.filter(|trouble| trouble.first == uid);
        trouble
            .filter(|trouble| trouble.attempts >= ATTEMPTS_MAX)
            .map(|_| "unreadable")
    }

    fn skip(&mut self, left: SkippedMail) {
        let SkippedMail { uid, reason, bytes } = left;
        if !self.skipped.insert(uid) {
            return;
        }
        self.account.metrics.skipped(reason);
        let folder = self.folder.escape_debug();
        if reason == "unreadable" {
            error!(protocol = "imap", %folder, uid, reason, bytes, "skipped at the server");
        } else {
            warn!(protocol = "imap", %folder, uid, reason, bytes, "skipped at the server");
        }
    }

    /// Fetches a group, stores it, and only then marks it at the server.
    async fn fetch_group(
        &mut self,
        dialogue: &mut ImapClient,
        group: &[(u32, u64)],
        look: &mut PollProgress,
    ) -> Result<(), ImapFault> {
        let (first, last) = (group[0].0, group[group.len() - 1].0);
        let alone = self.suspects.is_some() && group.len() == 1;
        // Some servers report wrong sizes: a mail that failed may have the maximum size.
        let told: u64 = group.iter().map(|(_, bytes)| bytes).sum();
        let bytes_max = match alone {
            true => self.account.settings.mail_bytes_max,
            false => usize::try_from(told).unwrap_or(usize::MAX),
        };
        let uids: Vec<u32> = group.iter().map(|(uid, _)| *uid).collect();
        match self
            .account
            .transfer(dialogue, &self.folder, &uids, bytes_max)
            .await
        {
            Ok(left) => {
                for left in left {
                    self.skip(left);
                }
            }
            Err(fault @ (ImapFault::Store(_) | ImapFault::StoreTimedOut)) => return Err(fault),
            Err(fault) => {
                let again = self.suspects.filter(|trouble| trouble.first == first);
                let tries = match &fault {
                    // The mail exceeds the size limit, although the server reported a smaller size.
                    ImapFault::LiteralTooLong if alone => ATTEMPTS_MAX,
                    _ if alone => again.map_or(1, |trouble| trouble.attempts + 1),
                    _ => 0,
                };
                self.suspects = Some(SuspectMails {
                    first,
                    last,
                    attempts: tries,
                });
                return Err(fault);
            }
        }
        self.advance(look, last);
        self.record_if_due(look, group.len()).await
    }

    /// Records that everything up to `uid` is processed.
    fn advance(&mut self, look: &mut PollProgress, uid: u32) {
        look.position.uid = uid;
        self.suspects = self.suspects.filter(|trouble| uid < trouble.last);
        self.skipped = self.skipped.split_off(&uid.saturating_add(1));
    }

    /// The position from which the folder is polled.
    async fn start_position(
        &mut self,
        selected: SelectedFolder,
    ) -> Result<ImapPosition, ImapFault> {
        let store = &self.account.intake.store;
        if self.recorded.is_none() {
            self.recorded = store.imap_position(&self.mailbox).await?;
        }
        let now = clock::now();
        let settings = &self.account.settings;
        let old_below = selected.uid_next.unwrap_or(u32::MAX);
        let known = self.recorded.map(|position| position.uid_validity);
        if known != Some(selected.uid_validity) {
            self.suspects = None;
            self.skipped.clear();
        }
        let fresh = match self.recorded {
            Some(position) if position.uid_validity == selected.uid_validity => {
                return Ok(position);
            }
            Some(position) => {
                warn!(protocol = "imap", folder = %self.folder.escape_debug(), was = position.uid_validity, is = selected.uid_validity, "UIDVALIDITY has changed: all mail is examined again");
                self.account.metrics.started_over();
                // The store recognises any newer mail.
                let known = settings.dedupe_window - settings.dedupe_window / 10;
                ImapPosition {
                    uid_validity: selected.uid_validity,
                    uid: 0,
                    old_below,
                    since: position.since.max(now.minus(known)),
                }
            }
            None => ImapPosition {
                uid_validity: selected.uid_validity,
                uid: 0,
                old_below: match settings.initial_fetch {
                    InitialFetch::All => 0,
                    InitialFetch::Unseen => old_below,
                },
                since: match settings.initial_fetch {
                    InitialFetch::All => Timestamp::default(),
                    // An arrival time has whole seconds.
                    InitialFetch::Unseen => Timestamp::from_secs(now.as_secs()),
                },
            },
        };
        let mut look = PollProgress {
            position: fresh,
            unrecorded: 0,
        };
        self.record(&mut look).await?;
        Ok(fresh)
    }

    async fn record_if_due(
        &mut self,
        look: &mut PollProgress,
        mails: usize,
    ) -> Result<(), ImapFault> {
        look.unrecorded += mails;
        if look.unrecorded < UNRECORDED_MAX {
            return Ok(());
        }
        self.record(look).await
    }

    async fn record(&mut self, look: &mut PollProgress) -> Result<(), ImapFault> {
        look.unrecorded = 0;
        if self.recorded == Some(look.position) {
            return Ok(());
        }
        let fact = Fact::MailboxPolled {
            mailbox: self.mailbox.clone(),
            position: look.position,
        };
        let store = &self.account.intake.store;
        let recorded =
            tokio::time::timeout(self.account.settings.store_max, store.record(vec![fact]));
        recorded.await.map_err(|_| ImapFault::StoreTimedOut)??;
        self.recorded = Some(look.position);
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }
}

/// The reason that is not logged: the mail was already there, and read, at the first poll of the folder.
const REASON_OLD: &str = "old";

async fn wait_stopped(stop: &mut watch::Receiver<bool>) {
    // The sender of the stop is dropped: the wait is ended.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn describe_fault(fault: &ImapFault) -> String {
    use std::error::Error as _;
    const CHARS_MAX: usize = 400;
    let text = match fault.source() {
        Some(cause) => format!("{fault}: {cause}"),
        None => fault.to_string(),
    };
    // The names in a certificate are untrusted text too.
    one_line(&text, CHARS_MAX)
}
