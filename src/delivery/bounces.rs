//! Owns bounces of mail that we sent: the job that a notice is about, and the facts to record.
//!
//! Does not parse the notice (`mail::dsn` does), and never makes a message of one.
//!
//! Anyone can write a notice. Only a notice to a return path that we signed suppresses an address, because
//! only the systems that handled the mail know that path. A notice that only names our Message-ID, which
//! every answer to the mail discloses, marks the job, and only if it also names the recipient of the job.

use std::time::Duration;

use tracing::info;

use super::attempt::{AttemptError, DeliveryAttempt};
use super::event_facts::EventFacts;
use super::parsed_mail::ParsedMail;
use super::plan::ParkReason;
use super::policy::Disposition;
use super::route::DeliveryRoute;
use crate::mail::address::{Address, Domain};
use crate::mail::dsn::{DIAGNOSTIC_BYTES_MAX, Hardness, Report, ReportOutcome, ReportedRecipient};
use crate::mail::envelope::{Recipient, RecipientTarget};
use crate::mail::job_id::{JobId, copy_of, job_of_message_id, job_of_return_path};
use crate::mail::kind::MailKind;
use crate::mail::redact;
use crate::store::{
    DsnSummary, Fact, Job, JobRecord, JobState, LeaseName, Store, StoreError, Suppression,
};

/// The maximum number of delays that are recorded for a job: a mail system reports one a day, but a forger
/// any number.
const DELAYS_MAX: usize = 8;
/// The longest wait for the end of an attempt: a notice may arrive before the fact that the mail
/// was sent.
const ATTEMPT_END_WAIT_MAX: Duration = Duration::from_secs(600);
/// The reason if a notice gives none.
const NO_REASON: &str = "the notice gives no reason";

/// The data for finding the job of a notice.
pub struct BounceLookup<'a> {
    /// The store.
    pub store: &'a Store,
    /// All routes, whose keys sign return paths.
    pub routes: &'a [DeliveryRoute],
    /// The recipient of the notice.
    pub recipient: &'a Recipient,
    /// The time for which an address is suppressed after a hard bounce.
    pub suppress_for: Duration,
}

/// The job that a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedJob {
    /// The id of the job.
    pub job: JobId,
    /// True if the notice was sent to the job's return path.
    pub signed: bool,
}

/// The content of a notice about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BounceNotice {
    outcome: ReportOutcome,
    pub(super) returned: DsnSummary,
}

/// The action for a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoticeAction {
    /// These facts are recorded.
    Record(Vec<Fact>),
    /// Nothing is recorded, because it was known before or the job is unknown.
    Ignore(&'static str),
    /// The job is being sent: the notice is examined again later.
    Retry,
}

impl BounceLookup<'_> {
    /// The job that a mail is about: by the return path it was sent to, otherwise by the returned mail in
    /// it. For a mail to several people it is the job of the recipient that the notice names.
    ///
    /// # Errors
    /// The store gives no answer.
    pub async fn find_job(&self, mail: &ParsedMail) -> Result<Option<NamedJob>, StoreError> {
        if let RecipientTarget::Return(job) = self.recipient.target {
            return Ok(Some(NamedJob { job, signed: true }));
        }
        let Some(report) = &mail.report else {
            return Ok(None);
        };
        let mut jobs = self.candidate_jobs(report);
        let mut place = 0;
        for (at, job) in jobs.iter().enumerate() {
            let record = self.store.job(*job).await?;
            let recipient = record.map(|record| record.job.recipient);
            if recipient.is_some_and(|recipient| report_for(report, &recipient).is_some()) {
                place = at;
                break;
            }
        }
        let job = (place < jobs.len()).then(|| jobs.swap_remove(place));
        Ok(job.map(|job| NamedJob { job, signed: false }))
    }

    /// The jobs that the returned mail may belong to.
    fn candidate_jobs(&self, report: &Report) -> Vec<JobId> {
        let original = &report.original;
        let paths = original.reply_addresses.iter();
        let paths = paths.filter_map(|path| Address::parse(path.expose()).ok());
        let mut jobs: Vec<JobId> = paths
            .filter_map(|path| {
                self.find_in_routes(|route, domain| job_of_return_path(&route.keys, domain, &path))
            })
            .collect();
        let of_id = original.message_id.as_deref().and_then(|id| {
            self.find_in_routes(|route, domain| {
                let first = job_of_message_id(&route.keys, domain, id)?;
                Some((route.keys.clone(), first))
            })
        });
        if let Some((keys, first)) = of_id {
            jobs.push(first);
            let addresses = report
                .recipients
                .iter()
                .flat_map(|one| [Some(&one.address), one.original.as_ref()]);
            jobs.extend(addresses.flatten().map(|to| copy_of(&keys, first, to)));
        }
        jobs
    }

    fn find_in_routes<T>(&self, find: impl Fn(&DeliveryRoute, &Domain) -> Option<T>) -> Option<T> {
        self.routes.iter().find_map(|route| {
            let mut domains = route.message_id_domains.iter();
            domains.find_map(|domain| find(route, domain))
        })
    }

    /// The action for a notice. The caller holds the locks of the job and of its recipient.
    pub(super) async fn plan(
        &self,
        record: &JobRecord,
        notice: &BounceNotice,
        signed: bool,
        telling: &EventFacts<'_>,
    ) -> Result<NoticeAction, StoreError> {
        let (job, now) = (&record.job, telling.at);
        let times = |what: &str| record.history.iter().filter(|t| t.what == what).count();
        let came_back = || Fact::NoticeReceived {
            job: job.id,
            notice: notice.returned.clone(),
            at: now,
        };
        if matches!(record.state, JobState::Captured | JobState::Cancelled) {
            return Ok(NoticeAction::Ignore("its job was never sent"));
        }
        match notice.outcome {
            ReportOutcome::Delivered => {
                return Ok(NoticeAction::Ignore("it says that the mail arrived"));
            }
            ReportOutcome::Delayed if times("delayed") >= DELAYS_MAX => {
                return Ok(NoticeAction::Ignore("its job was delayed so often before"));
            }
            ReportOutcome::Delayed => return Ok(NoticeAction::Record(vec![came_back()])),
            ReportOutcome::Failed => {}
        }
        let is_known = times("bounced") > 0;
        match record.state {
            JobState::Bounced { .. } => {
                return Ok(NoticeAction::Ignore("its job came back before"));
            }
            JobState::Sent => {}
            _ if is_known => {
                return Ok(NoticeAction::Ignore("its job came back before"));
            }
            JobState::Waiting { .. } => {
                let begun = record.begun_at;
                if begun.is_some_and(|begun| now.since(begun) < ATTEMPT_END_WAIT_MAX) {
                    return Ok(NoticeAction::Retry);
                }
            }
            _ => {}
        }
        let mut facts = vec![telling.bounced(job, &notice.returned), came_back()];
        if signed && notice.returned.hard && !is_known {
            facts.extend(self.suppression_fact(job, notice, telling).await?);
        }
        Ok(NoticeAction::Record(facts))
    }

    /// The fact that one more job bounced from the address. An entry made by a person stays
    /// unchanged.
    async fn suppression_fact(
        &self,
        job: &Job,
        notice: &BounceNotice,
        telling: &EventFacts<'_>,
    ) -> Result<Option<Fact>, StoreError> {
        let now = telling.at;
        let known = self.store.suppression(&job.recipient, now).await?;
        if known.as_ref().is_some_and(|known| known.bounces == 0) {
            return Ok(None);
        }
        let bounces = known.as_ref().map_or(0, |known| known.bounces);
        Ok(Some(Fact::Suppressed(Suppression {
            address: job.recipient.folded(),
            reason: notice.returned.reason.clone(),
            job: Some(job.id),
            bounces: bounces.saturating_add(1),
            at: known.map_or(now, |known| known.at),
            until: now.plus(self.suppress_for),
        })))
    }
}

impl BounceNotice {
    /// The notice in a mail about a job; `None` if only its own text names a recipient, and that is not the
    /// job's.
    pub(super) fn of(
        mail: &ParsedMail,
        job: &Job,
        signed: bool,
        domains: &[Domain],
    ) -> Option<Self> {
        let report = mail.report.as_ref();
        let recipient = report.and_then(|report| report_for(report, &job.recipient));
        if recipient.is_none() && !signed {
            return None;
        }
        // A mail of ours has one recipient: the failure belongs to the job, wherever the mail was
        // forwarded.
        let recipient = recipient.or_else(|| report.and_then(worst_recipient));
        let outcome = match recipient {
            _ if mail.kind == MailKind::DelayNotice => ReportOutcome::Delayed,
            Some(recipient) => recipient.action.outcome(),
            None => ReportOutcome::Failed,
        };
        let words = recipient.and_then(|recipient| recipient.diagnostic.as_deref());
        let mta = recipient.and_then(|recipient| recipient.remote_mta.as_deref());
        let mta = mta.or_else(|| report.and_then(|report| report.reporting_mta.as_deref()));
        let mut reason = redact::local_parts(words.unwrap_or(NO_REASON), domains).into_owned();
        reason.truncate(reason.floor_char_boundary(DIAGNOSTIC_BYTES_MAX));
        let returned = DsnSummary {
            failed: outcome == ReportOutcome::Failed,
            hard: outcome == ReportOutcome::Failed && recipient.is_some_and(is_hard),
            status: recipient.and_then(|r| r.status.map(|status| status.to_string())),
            reason,
            remote_mta: mta.map(|mta| redact::local_parts(mta, domains).into_owned()),
        };
        Some(Self { outcome, returned })
    }
}

impl DeliveryAttempt<'_> {
    /// Records a notice about a job, and settles it by the route's policy, but never as a message.
    pub(super) async fn record_notice(&self, mail: &ParsedMail) -> Result<(), AttemptError> {
        let returns = BounceLookup {
            store: &self.context.store,
            routes: &self.context.routes,
            recipient: &self.delivery.recipient,
            suppress_for: self.context.suppress_for,
        };
        let (mut facts, mut about) = (Vec::new(), "not a mail of ours");
        // Held until the facts are recorded, so that two notices about one job count once.
        let mut turns = Vec::new();
        if let Some(NamedJob { job, signed }) = returns.find_job(mail).await? {
            turns.push(self.lease(LeaseName::Notice(job)).await?);
            about = "the job is no longer known";
            if let Some(record) = returns.store.job(job).await? {
                let address = record.job.recipient.folded();
                turns.push(self.lease(LeaseName::Address(address)).await?);
                let domains = &self.route.message_id_domains;
                about = match BounceNotice::of(mail, &record.job, signed, domains) {
                    None => "the recipient is not the job's",
                    Some(notice) => {
                        let events = self.event_facts();
                        match returns.plan(&record, &notice, signed, &events).await? {
                            NoticeAction::Ignore(why) => why,
                            NoticeAction::Retry => {
                                let reason =
                                    "the result of its job's attempt is not known yet".to_owned();
                                return Err(AttemptError::Retry(reason, None));
                            }
                            NoticeAction::Record(actions) => {
                                facts = actions;
                                self.log_notice(&record.job, &notice, signed);
                                "its job"
                            }
                        }
                    }
                };
            }
        }
        info!(delivery = %self.delivery.id, kind = mail.kind.name(), about, "notice");
        match mail.disposition {
            Disposition::Drop(rule) => self.drop_with_facts(rule, mail, facts).await,
            // A notice that was recorded is not recorded again after a person releases it.
            Disposition::Hold(rule) => {
                self.record(facts).await?;
                Err(self.park(ParkReason::rule(rule)))
            }
            Disposition::Post(kind) => self.drop_with_facts(kind.name(), mail, facts).await,
        }
    }

    fn log_notice(&self, job: &Job, notice: &BounceNotice, signed: bool) {
        let returned = &notice.returned;
        let fate = if returned.failed {
            "bounced"
        } else {
            "delayed"
        };
        info!(
            delivery = %self.delivery.id, job = %job.id, signed, hard = returned.hard,
            status = returned.status.as_deref().unwrap_or_default(),
            reason = %returned.reason.escape_debug(), fate, "a mail of ours was returned"
        );
    }
}

/// True if the address will never work. A permanent refusal may also concern only the mail.
fn is_hard(recipient: &ReportedRecipient) -> bool {
    recipient.hardness() == Hardness::Hard && recipient.reason.blames_address()
}

fn report_for<'r>(report: &'r Report, address: &Address) -> Option<&'r ReportedRecipient> {
    let folded = address.folded();
    let is_his = |one: &Address| one.folded() == folded;
    report
        .recipients
        .iter()
        .find(|one| is_his(&one.address) || one.original.as_ref().is_some_and(is_his))
}

fn worst_recipient(report: &Report) -> Option<&ReportedRecipient> {
    let first = |outcome| {
        let mut all = report.recipients.iter();
        all.find(|one| one.action.outcome() == outcome)
    };
    first(ReportOutcome::Failed)
        .or_else(|| first(ReportOutcome::Delayed))
        .or_else(|| report.recipients.first())
}
