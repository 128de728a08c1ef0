//! Owns the records that a mend writes to the journal, so that a start from the journal alone posts and sends
//! nothing twice: the lost facts that an index knew, and the end of each delivery and job whose state is
//! unknown.
//!
//! Does not change existing segments.

use bytes::Bytes;

use super::plan::Plan;
use crate::clock::Timestamp;
use crate::mail::job_id::JobId;
use crate::store::embedded::frame::Record;
use crate::store::embedded::index::{IndexError, IndexKey};
use crate::store::embedded::journal::Journal;
use crate::store::embedded::journal_writer::StateRecord;
use crate::store::embedded::location::RecordReader;
use crate::store::embedded::lookup::Lookup as _;
use crate::store::embedded::open_mail::{LedgerTotals, OpenDelivery};
use crate::store::embedded::opening::apply_record;
use crate::store::embedded::segment::SegmentKind;
use crate::store::embedded::state::{ApplyContext, StoreState};
use crate::store::embedded::stored_job::{IndexedJob, StoredJob};
use crate::store::error::OpenError;
use crate::store::fact::{DeliveryOutcome, Fact};
use crate::store::id::{DeliveryId, MailId};
use crate::store::job::{JobOutcome, JobState};

/// The number of records written, or of index entries read, in one step.
const PIECE: usize = 256;
/// The approximate maximum of bytes of jobs' mails in one step.
const PIECE_BYTES: usize = 4 << 20;

/// The rule by which the ledger counts deliveries whose mail was damaged or missing.
const DAMAGED_RULE: &str = "damaged";
/// The rule of a settled delivery whose outcome is unknown.
const SETTLED_RULE: &str = "settled";

/// The state of the remaining journal, and the state of an index that knows more.
pub(super) struct Recovery<'a> {
    pub(super) journal: &'a mut Journal,
    pub(super) facts: RecordReader,
    /// The state that results from the journal.
    pub(super) state: &'a mut StoreState,
    /// The state from the index, and the number of the last record that the index has seen.
    pub(super) known: Option<(&'a StoreState, u64)>,
    pub(super) now: Timestamp,
}

/// A record to be written, with its body.
type Told = (StateRecord, Bytes);

impl Recovery<'_> {
    /// Records the index's knowledge of deliveries and jobs, and parks or fails those whose state is unknown.
    /// `keep` is called when the losses are known, before the first write.
    pub(super) fn settle(
        &mut self,
        plan: &mut Plan,
        keep: impl Fn(&Plan) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let mut told = self.deliveries(plan);
        told.extend(self.jobs(plan).map_err(unread)?);
        self.name_lost_mails(plan)?;
        keep(plan)?;
        self.tell(told)?;
        let held = self.doubtful_jobs(plan).map_err(unread)?;
        keep(plan)?;
        self.tell(held)
    }

    /// Records the entries of the index whose facts are lost.
    pub(super) fn keep_entries(&mut self, plan: &mut Plan) -> Result<(), OpenError> {
        let Some((known, _)) = self.known else {
            return Ok(());
        };
        for tag in IndexKey::WHOLE {
            let (mut after, _) = IndexKey::bounds(tag);
            loop {
                let page = known.entries_after(tag, after, PIECE).map_err(unread)?;
                let Some((last, _)) = page.last_key_value() else {
                    break;
                };
                after = *last;
                let mut told = Vec::new();
                for (key, value) in page {
                    let Some(value) = value else {
                        continue;
                    };
                    let here = self.state.entry(key).map_err(unread)?;
                    let seq = value.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
                    if here.is_none_or(|(known, _)| known < seq) {
                        let entry = StateRecord::Entry(key.raw_entry(&value));
                        told.push((entry, Bytes::new()));
                    }
                }
                self.tell(told)?;
            }
        }
        plan.report.mappings = self.lost_mappings(known).map_err(unread)?;
        Ok(())
    }

    /// The totals that match the remaining records. Missing deliveries count as dropped, and missing jobs as
    /// failed.
    pub(super) fn totals(&self, plan: &mut Plan) -> LedgerTotals {
        let mut totals = match &plan.known_totals {
            Some(known) => known.clone(),
            None => self.state.totals.clone(),
        };
        totals.gone_to = totals.gone_to.max(plan.lost_to);
        let oldest = self.journal.sealed(SegmentKind::State);
        totals.state_from = oldest.keys().next().copied().unwrap_or_default();
        let open = (self.state.waiting().len() + self.state.parked().len()) as u64;
        let accounted = totals.settled_count() + open;
        plan.report.lost_deliveries = totals.received.saturating_sub(accounted);
        if plan.report.lost_deliveries > 0 {
            let rule = totals.dropped.entry(DAMAGED_RULE.to_owned());
            *rule.or_default() += plan.report.lost_deliveries;
        }
        totals.received = totals.received.max(accounted);
        let outbox = &self.state.outbox;
        let jobs = &mut totals.jobs;
        let (captured, failed) = (outbox.captured().len(), outbox.failed().len());
        let accounted = outbox.waiting()
            + jobs.sent
            + jobs.cancelled
            + jobs.captured_gone
            + captured as u64
            + jobs.failed_gone
            + failed as u64;
        plan.report.uncounted_jobs = jobs.taken.saturating_sub(accounted);
        jobs.failed_gone += plan.report.uncounted_jobs;
        jobs.taken = jobs.taken.max(accounted);
        totals
    }

    /// Writes records and applies them.
    pub(super) fn tell(&mut self, told: Vec<Told>) -> Result<(), OpenError> {
        let mut piece = Vec::new();
        let mut bytes = 0;
        for told in told {
            bytes += told.1.len();
            piece.push(told);
            if piece.len() >= PIECE || bytes >= PIECE_BYTES {
                self.tell_piece(std::mem::take(&mut piece))?;
                bytes = 0;
            }
        }
        self.tell_piece(piece)
    }

    fn tell_piece(&mut self, told: Vec<Told>) -> Result<(), OpenError> {
        if told.is_empty() {
            return Ok(());
        }
        let record = |(record, body): &Told| Record::new(record.json(), body.clone());
        let records: Vec<Record> = told.iter().map(record).collect();
        let written = self
            .journal
            .append(&[], &records)
            .map_err(|_| unwritten())?;
        for (nth, (record, _)) in told.into_iter().enumerate() {
            let stamp = ApplyContext {
                origin: written.fact_seq + nth as u64,
                counts: false,
                replayed: true,
                location: written.facts[nth],
            };
            apply_record(self.state, record, stamp).map_err(unread)?;
        }
        self.state.seq = self.journal.last_seq();
        Ok(())
    }

    /// True if a fact about the delivery or job with this number may be lost, and the index does not know it.
    fn is_doubtful(&self, plan: &Plan, number: u64) -> bool {
        let seen = self.known.map_or(0, |(_, seen)| seen);
        plan.facts_lost_to > seen && number < plan.facts_lost_to
    }

    fn deliveries(&self, plan: &mut Plan) -> Vec<Told> {
        let mut facts = Vec::new();
        for (mail, held) in self.state.open_mails() {
            for open in &held.open {
                let id = DeliveryId {
                    mail: *mail,
                    recipient: open.recipient,
                };
                let settled = |outcome| Fact::Settled {
                    delivery: id,
                    outcome,
                    fingerprint: None,
                    at: self.now,
                };
                let mut waits = open.parked.is_none();
                if let Some((known, _)) = self.known {
                    let Some(known) = known.open_delivery(id) else {
                        plan.report.settled += 1;
                        let rule = SETTLED_RULE.to_owned();
                        facts.push(settled(DeliveryOutcome::Dropped { rule }));
                        continue;
                    };
                    facts.extend(self.known_steps(id, open, known));
                    waits = known.parked.is_none();
                    if let Some(reason) = known.parked.as_deref().filter(|_| open.parked.is_none())
                    {
                        let reason = reason.to_owned();
                        facts.push(settled(DeliveryOutcome::Parked { reason }));
                    }
                }
                if waits && self.is_doubtful(plan, mail.0) {
                    plan.report.parked.insert(id.to_string());
                    let reason =
                        "facts of the journal are lost: it may have been delivered already";
                    facts.push(settled(DeliveryOutcome::Parked {
                        reason: reason.to_owned(),
                    }));
                }
            }
        }
        let told = |fact| (StateRecord::Fact(fact), Bytes::new());
        facts.into_iter().map(told).collect()
    }

    /// The facts about a delivery that only the index knows: its steps, and its release by a person.
    fn known_steps(
        &self,
        delivery: DeliveryId,
        open: &OpenDelivery,
        known: &OpenDelivery,
    ) -> Vec<Fact> {
        let new = known.steps.iter().filter(|step| !open.steps.contains(step));
        let advanced = |step: &_| Fact::Advanced {
            delivery,
            step: Clone::clone(step),
        };
        let mut facts: Vec<Fact> = new.map(advanced).collect();
        if open.parked.is_some() && known.parked.is_none() {
            let at = self.now;
            facts.push(Fact::Released { delivery, at });
        }
        facts
    }

    /// The records of jobs that the index knows better, and of jobs of which only the mail is lost.
    fn jobs(&self, plan: &mut Plan) -> Result<Vec<Told>, IndexError> {
        let mut told = Vec::new();
        if let Some((known, _)) = self.known {
            for tag in [IndexKey::OPEN_JOB, IndexKey::SETTLED_JOB] {
                for_each_job(known, tag, |job| {
                    let id = job.stored.record.job.id;
                    let newest = known.indexed_job(id)?;
                    let is_newest = newest.is_none_or(|newest| newest.seq == job.seq);
                    let here = self.state.indexed_job(id)?;
                    if is_newest && here.is_none_or(|here| here.seq < job.seq) {
                        told.push(self.job(job, plan));
                    }
                    Ok(())
                })?;
            }
            // A job that the index has forgotten ended long ago.
            for_each_job(self.state, IndexKey::OPEN_JOB, |job| {
                let id = job.stored.record.job.id;
                if known.indexed_job(id)?.is_none() && self.state.outbox.begun(id).is_some() {
                    let outcome = JobOutcome::Cancelled;
                    told.push(ended(id, outcome, self.now));
                }
                Ok(())
            })?;
        }
        let told_already: Vec<JobId> = told.iter().filter_map(job_of).collect();
        for job in std::mem::take(&mut plan.jobs) {
            let id = job.record.job.id;
            if !told_already.contains(&id) && self.state.indexed_job(id)?.is_none() {
                plan.report.lost_jobs.insert(id);
                let number = self.state.seq;
                told.push(without_mail(job.clone(), number, self.now));
            }
            plan.jobs.push(job);
        }
        Ok(told)
    }

    /// The record of a job from the index, with its mail if that is needed and available.
    fn job(&self, job: IndexedJob, plan: &mut Plan) -> Told {
        if job.stored.settled.is_some() {
            return (StateRecord::Job(Box::new(job.stored)), Bytes::new());
        }
        match self.facts.body(job.location) {
            Ok(mail) => (StateRecord::Job(Box::new(job.stored)), mail),
            Err(_) => {
                plan.report.lost_jobs.insert(job.stored.record.job.id);
                without_mail(job.stored, job.seq, self.now)
            }
        }
    }

    /// The jobs that wait and may have been sent.
    fn doubtful_jobs(&self, plan: &mut Plan) -> Result<Vec<Told>, IndexError> {
        let mut told = Vec::new();
        for_each_job(self.state, IndexKey::OPEN_JOB, |job| {
            let id = job.stored.record.job.id;
            let waits = matches!(job.stored.record.state, JobState::Waiting { .. });
            if waits && self.is_doubtful(plan, job.stored.order) {
                plan.report.held_jobs.insert(id);
                let reason = "records of the journal are lost: it may have been sent already";
                let outcome = JobOutcome::Failed {
                    relay: None,
                    reason: reason.to_owned(),
                };
                told.push(ended(id, outcome, self.now));
            }
            Ok(())
        })?;
        Ok(told)
    }

    /// Names the mails that waited or were parked, and are lost.
    fn name_lost_mails(&self, plan: &mut Plan) -> Result<(), OpenError> {
        if let Some((known, _)) = self.known {
            let here = self.state.open_mails();
            let lost = known
                .open_mails()
                .keys()
                .filter(|mail| !here.contains_key(mail));
            plan.report.lost_mails.extend(lost.map(|mail| mail.0));
            return Ok(());
        }
        let mut lost = plan.mails.clone();
        let kind = SegmentKind::State;
        self.journal.replay(kind, 0, |_, row| {
            if row.head.starts_with(b"{\"fact\":{\"settled\"")
                && let Ok(StateRecord::Fact(Fact::Settled {
                    delivery, outcome, ..
                })) = serde_json::from_slice(&row.head)
                && !matches!(outcome, DeliveryOutcome::Parked { .. })
            {
                lost.remove(&delivery.mail);
            }
            Ok(())
        })?;
        let here = self.state.open_mails();
        lost.retain(|mail: &MailId| !here.contains_key(mail));
        plan.report
            .lost_mails
            .extend(lost.iter().map(|mail| mail.0));
        Ok(())
    }

    fn lost_mappings(&self, known: &StoreState) -> Result<u64, IndexError> {
        let (mut after, _) = IndexKey::bounds(IndexKey::THREAD);
        let mut count = 0;
        loop {
            let page = known.entries_after(IndexKey::THREAD, after, PIECE)?;
            let Some((last, _)) = page.last_key_value() else {
                return Ok(count);
            };
            after = *last;
            for (key, value) in page {
                if value.is_some() && self.state.get(key)?.is_none() {
                    count += 1;
                }
            }
        }
    }
}

fn for_each_job(
    state: &StoreState,
    tag: u8,
    mut show: impl FnMut(IndexedJob) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    let (mut after, _) = IndexKey::bounds(tag);
    loop {
        let page = state.entries_after(tag, after, PIECE)?;
        let Some((last, _)) = page.last_key_value() else {
            return Ok(());
        };
        after = *last;
        for value in page.into_values().flatten() {
            let job = value
                .split_first_chunk()
                .and_then(|(seq, payload)| IndexedJob::decode(u64::from_le_bytes(*seq), payload));
            show(job.ok_or_else(|| IndexError::damaged("a job"))?)?;
        }
    }
}

fn ended(job: JobId, outcome: JobOutcome, at: Timestamp) -> Told {
    let fact = Fact::Ended { job, outcome, at };
    (StateRecord::Fact(fact), Bytes::new())
}

/// The record of a job that can never be sent: the job has failed, and its keys are still known.
fn without_mail(mut job: StoredJob, number: u64, now: Timestamp) -> Told {
    if job.settled.is_none() {
        let reason = "its mail was damaged or missing".to_owned();
        job.record.state = JobState::Failed { reason };
        job.record.begun_at = None;
        job.over_at = Some(now);
        job.settle(number);
    }
    (StateRecord::Job(Box::new(job)), Bytes::new())
}

fn job_of((record, _): &Told) -> Option<JobId> {
    match record {
        StateRecord::Job(job) => Some(job.record.job.id),
        StateRecord::Fact(fact) => fact.job(),
        _ => None,
    }
}

fn unread(error: IndexError) -> OpenError {
    OpenError::Index {
        path: "index".into(),
        reason: error.to_string(),
    }
}

pub(super) fn unwritten() -> OpenError {
    let error = std::io::Error::other("not written");
    OpenError::io(std::path::Path::new("journal"), error)
}
