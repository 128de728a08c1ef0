//! Owns what comes back about a mail we sent: which job it is about, and what is recorded of it.
//!
//! Does not read the notice (`mail::dsn` does), and no message is ever made of one.
//!
//! Anyone can write a notice. Only one to a return path that we signed makes an address a bad one: nobody
//! but the systems that had the mail knows that path. One that names our Message-ID, which every
//! answer to the mail shows to others, marks the job, and only if it names the job's own recipient too.

use std::time::Duration;

use tracing::info;

use super::attempt::{Attempt, Stop};
use super::policy::Ruling;
use super::reading::Reading;
use super::route::Route;
use super::telling::{Telling, without_tokens};
use crate::mail::address::{Address, Domain};
use crate::mail::dsn::{DIAGNOSTIC_BYTES_MAX, Hardness, Outcome, Recipient, Report};
use crate::mail::envelope::Target;
use crate::mail::kind::Kind;
use crate::mail::outgoing::{JobId, copy_of, job_of_message_id, job_of_return_path};
use crate::store::{Delivery, Fact, Job, JobRecord, JobState, Returned, Store, Suppression};

/// Of one job so many delays are recorded: a mail system tells of one a day, a forger of any number.
const DELAYS_MAX: usize = 8;
/// An attempt whose end is not known is waited for so long: the notice may be quicker than the note
/// that the mail was sent.
const UNDER_WAY_MAX: Duration = Duration::from_secs(600);
/// Where a notice does not say why.
const NO_REASON: &str = "the notice gives no reason";

/// What is asked to find out what a notice is about.
pub(super) struct Returns<'a> {
    pub(super) store: &'a Store,
    pub(super) routes: &'a [Route],
    pub(super) delivery: &'a Delivery,
    /// How long an address that came back stays on the list.
    pub(super) suppress_for: Duration,
}

/// The job a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) job: JobId,
    /// The notice came to the job's return path.
    pub(super) signed: bool,
}

/// What a notice says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    outcome: Outcome,
    pub(super) returned: Returned,
}

/// What is to be done about a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// These facts are recorded.
    Record(Vec<Fact>),
    /// Nothing: this was known before, or nothing came of the job that could come back.
    Nothing(&'static str),
    /// The job is being sent: the notice is looked at again.
    Later,
}

impl Returns<'_> {
    /// The job a mail is about: by the return path it came to, else by what it returns of our mail. Of a
    /// mail to several people it is the job of whom the notice names.
    pub(super) fn named(&self, mail: &Reading) -> Option<Named> {
        if let Target::Return(job) = self.delivery.recipient.target {
            return Some(Named { job, signed: true });
        }
        let report = mail.report.as_ref()?;
        let mut jobs = self.jobs_of(report);
        let is_his = |job: &JobId| {
            let record = self.store.job(*job);
            record.is_some_and(|record| of_recipient(report, &record.job.recipient).is_some())
        };
        let place = jobs.iter().position(is_his).unwrap_or_default();
        let job = (place < jobs.len()).then(|| jobs.swap_remove(place))?;
        Some(Named { job, signed: false })
    }

    /// The jobs that the returned mail may be of.
    fn jobs_of(&self, report: &Report) -> Vec<JobId> {
        let original = &report.original;
        let paths = original.reply_addresses.iter();
        let paths = paths.filter_map(|path| Address::parse(path.expose()).ok());
        let mut jobs: Vec<JobId> = paths
            .filter_map(|path| {
                self.of_routes(|route, domain| job_of_return_path(&route.keys, domain, &path))
            })
            .collect();
        let of_id = original.message_id.as_deref().and_then(|id| {
            self.of_routes(|route, domain| {
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

    fn of_routes<T>(&self, find: impl Fn(&Route, &Domain) -> Option<T>) -> Option<T> {
        self.routes.iter().find_map(|route| {
            let mut domains = route.message_id_domains.iter();
            domains.find_map(|domain| find(route, domain))
        })
    }

    /// What is recorded of a notice. The caller holds the turns of the job and of its recipient.
    pub(super) fn deed(
        &self,
        record: &JobRecord,
        notice: &Notice,
        signed: bool,
        telling: &Telling<'_>,
    ) -> Deed {
        let (job, now) = (&record.job, telling.at);
        let times = |what: &str| record.history.iter().filter(|t| t.what == what).count();
        let came_back = || Fact::CameBack {
            job: job.id,
            returned: notice.returned.clone(),
            at: now,
        };
        if matches!(record.state, JobState::Captured | JobState::Cancelled) {
            return Deed::Nothing("its job was never sent");
        }
        match notice.outcome {
            Outcome::Delivered => return Deed::Nothing("it says that the mail arrived"),
            Outcome::Delayed if times("delayed") >= DELAYS_MAX => {
                return Deed::Nothing("its job was delayed so often before");
            }
            Outcome::Delayed => return Deed::Record(vec![came_back()]),
            Outcome::Failed => {}
        }
        let is_known = times("bounced") > 0;
        match record.state {
            JobState::Bounced { .. } => return Deed::Nothing("its job came back before"),
            JobState::Sent => {}
            _ if is_known => return Deed::Nothing("its job came back before"),
            JobState::Waiting { .. } => {
                let begun = record.begun_at;
                if begun.is_some_and(|begun| now.since(begun) < UNDER_WAY_MAX) {
                    return Deed::Later;
                }
            }
            _ => {}
        }
        let mut facts = vec![telling.bounced(job, &notice.returned), came_back()];
        if signed && notice.returned.hard && !is_known {
            facts.extend(self.suppressed(job, notice, telling));
        }
        Deed::Record(facts)
    }

    /// One job more came back from the address. What a person put on the list stays as he put it.
    fn suppressed(&self, job: &Job, notice: &Notice, telling: &Telling<'_>) -> Option<Fact> {
        let now = telling.at;
        let known = self.store.suppression(&job.recipient, now);
        if known.as_ref().is_some_and(|known| known.bounces == 0) {
            return None;
        }
        let bounces = known.as_ref().map_or(0, |known| known.bounces);
        Some(Fact::Suppressed(Suppression {
            address: job.recipient.folded(),
            reason: notice.returned.reason.clone(),
            job: Some(job.id),
            bounces: bounces.saturating_add(1),
            at: known.map_or(now, |known| known.at),
            until: now.plus(self.suppress_for),
        }))
    }
}

impl Notice {
    /// What a mail says of a job; `None` if it is about another recipient than the job's, and nothing
    /// but its own words says otherwise.
    pub(super) fn of(mail: &Reading, job: &Job, signed: bool, domains: &[Domain]) -> Option<Self> {
        let report = mail.report.as_ref();
        let recipient = report.and_then(|report| of_recipient(report, &job.recipient));
        if recipient.is_none() && !signed {
            return None;
        }
        // A mail of ours has one recipient: whoever it went on to, the failure is the job's.
        let recipient = recipient.or_else(|| report.and_then(worst));
        let outcome = match recipient {
            _ if mail.kind == Kind::DelayNotice => Outcome::Delayed,
            Some(recipient) => recipient.action.outcome(),
            None => Outcome::Failed,
        };
        let words = recipient.and_then(|recipient| recipient.diagnostic.as_deref());
        let mta = recipient.and_then(|recipient| recipient.remote_mta.as_deref());
        let mta = mta.or_else(|| report.and_then(|report| report.reporting_mta.as_deref()));
        let mut reason = without_tokens(words.unwrap_or(NO_REASON), domains);
        reason.truncate(reason.floor_char_boundary(DIAGNOSTIC_BYTES_MAX));
        let returned = Returned {
            failed: outcome == Outcome::Failed,
            hard: outcome == Outcome::Failed && recipient.is_some_and(is_hard),
            status: recipient.and_then(|r| r.status.map(|status| status.to_string())),
            reason,
            remote_mta: mta.map(|mta| without_tokens(mta, domains)),
        };
        Some(Self { outcome, returned })
    }
}

impl Attempt<'_> {
    /// A notice about a mail of ours, or whatever else came to a return path. False if the mail is to
    /// be read like any other.
    pub(super) async fn returned(&self, mail: &Reading) -> Result<bool, Stop> {
        let is_return = matches!(self.delivery.recipient.target, Target::Return(_));
        if matches!(mail.kind, Kind::Bounce | Kind::DelayNotice) {
            self.take_notice(mail).await?;
            return Ok(true);
        }
        if !is_return {
            return Ok(false);
        }
        if mail.kind.is_person() {
            // Some mail programs answer to the return path.
            if self.is_approved() {
                return Ok(false);
            }
            self.jobs.metrics.hold(&self.route.name, BOUNCE_ADDRESS);
            return Err(Stop::Park("a person wrote to a bounce address".to_owned()));
        }
        self.drop_with(BOUNCE_ADDRESS, mail, Vec::new()).await?;
        Ok(true)
    }

    /// Records what a notice says of a job, and settles it as its route wants, but never as a message.
    async fn take_notice(&self, mail: &Reading) -> Result<(), Stop> {
        let returns = Returns {
            store: &self.jobs.store,
            routes: &self.jobs.routes,
            delivery: self.delivery,
            suppress_for: self.jobs.suppress_for,
        };
        let (mut facts, mut about) = (Vec::new(), "no mail of ours");
        // Held until the facts are recorded: two notices about one job count once.
        let mut turns = Vec::new();
        if let Some(Named { job, signed }) = returns.named(mail) {
            turns.push(self.turn(format!("job {job}")).await);
            about = "a job that is not known any more";
            if let Some(record) = returns.store.job(job) {
                let address = record.job.recipient.folded();
                turns.push(self.turn(format!("address {address}")).await);
                let domains = &self.route.message_id_domains;
                about = match Notice::of(mail, &record.job, signed, domains) {
                    None => "another recipient than its job's",
                    Some(notice) => match returns.deed(&record, &notice, signed, &self.telling()) {
                        Deed::Nothing(why) => why,
                        Deed::Later => {
                            let reason = "the end of its job's attempt is not known".to_owned();
                            return Err(Stop::Later(reason, None));
                        }
                        Deed::Record(deeds) => {
                            facts = deeds;
                            self.tell(&record.job, &notice, signed);
                            "its job"
                        }
                    },
                };
            }
        }
        info!(delivery = %self.delivery.id, kind = mail.kind.name(), about, "notice");
        match mail.ruling {
            Ruling::Drop(rule) => self.drop_with(rule, mail, facts).await,
            // What was noted is not noted again when a person sends it back here.
            Ruling::Hold(rule) => {
                self.record(facts).await?;
                Err(self.held(rule))
            }
            Ruling::Post(kind) => self.drop_with(kind.name(), mail, facts).await,
        }
    }

    fn tell(&self, job: &Job, notice: &Notice, signed: bool) {
        let returned = &notice.returned;
        let fate = if returned.failed {
            "bounced"
        } else {
            "delayed"
        };
        info!(
            delivery = %self.delivery.id, job = %job.id, signed, hard = returned.hard,
            status = returned.status.as_deref().unwrap_or_default(),
            reason = %returned.reason.escape_debug(), fate, "a mail of ours came back"
        );
    }
}

/// The rule by which mail to a return path that is no notice is not posted.
const BOUNCE_ADDRESS: &str = "bounce_address";

/// Will the address never work? A refusal for good may be about the mail, not the address.
fn is_hard(recipient: &Recipient) -> bool {
    recipient.hardness() == Hardness::Hard && recipient.reason.blames_address()
}

fn of_recipient<'r>(report: &'r Report, address: &Address) -> Option<&'r Recipient> {
    let folded = address.folded();
    let is_his = |one: &Address| one.folded() == folded;
    report
        .recipients
        .iter()
        .find(|one| is_his(&one.address) || one.original.as_ref().is_some_and(is_his))
}

fn worst(report: &Report) -> Option<&Recipient> {
    let first = |outcome| {
        let mut all = report.recipients.iter();
        all.find(|one| one.action.outcome() == outcome)
    };
    first(Outcome::Failed)
        .or_else(|| first(Outcome::Delayed))
        .or_else(|| report.recipients.first())
}
