//! Owns the effects of facts in the store in memory, and the content of its records.
//!
//! Does not implement the interface.

use super::*;

pub(super) fn bare(id: &str) -> String {
    id.trim().trim_matches(['<', '>']).to_owned()
}

pub(super) fn conversation(key: &ConversationKey) -> String {
    format!("{key:?}")
}

/// The properties shared by jobs that are sent in order.
fn line_of(record: &JobRecord) -> [Option<String>; 3] {
    let job = &record.job;
    let last = match job.thread_id {
        Some(_) => job.recipient.folded(),
        None => job.id.to_string(),
    };
    [Some(job.route.clone()), job.thread_id.clone(), Some(last)]
}

impl Contents {
    /// Applies the facts of one call that take effect. An event depends on the facts about a job or a
    /// delivery beside it, and so does a suppression.
    pub(super) fn record(&mut self, facts: Vec<(Fact, Bytes)>) {
        let (mut job_refused, mut delivery_refused) = (false, false);
        let mut follow = Vec::new();
        for (fact, mail) in facts {
            self.seq += 1;
            match fact {
                Fact::Happened(_) | Fact::Suppressed(_) => follow.push((self.seq, fact)),
                fact => {
                    let is_about_a_job = fact.job().is_some();
                    if !self.apply(fact, mail) {
                        job_refused |= is_about_a_job;
                        delivery_refused |= !is_about_a_job;
                    }
                }
            }
        }
        for (seq, fact) in follow {
            match fact {
                Fact::Happened(event) => {
                    let refused = match event.kind.name().starts_with("email.outbound") {
                        true => job_refused,
                        false => delivery_refused,
                    };
                    if !refused {
                        self.events.insert(EventId(seq), Arc::new(event));
                    }
                }
                Fact::Suppressed(listed) if !job_refused => {
                    self.suppressions.insert(listed.address.clone(), listed);
                }
                _ => {}
            }
        }
    }

    fn add_mapping(&mut self, mapping: Mapping) {
        let key = ThreadKey::of(&mapping.thread_id);
        if let Some(participant) = &mapping.participant {
            let name = [
                mapping.route.clone(),
                participant.folded(),
                mapping.subject.clone(),
            ];
            self.subjects.insert(name, key);
        }
        self.mappings.insert((mapping.route.clone(), key), mapping);
    }

    /// False if the fact has no effect.
    pub(super) fn apply(&mut self, fact: Fact, mail: Bytes) -> bool {
        match fact {
            Fact::Mapped(mapping) => self.add_mapping(mapping),
            Fact::Linked {
                route,
                message_id,
                thread_id,
                sent_by_us,
                at: _,
            } => {
                let name = (route, bare(&message_id), sent_by_us);
                self.links.insert(name, ThreadKey::of(&thread_id));
            }
            Fact::TokenIssued {
                token,
                thread_id,
                at,
            } => {
                self.tokens.insert(token, (thread_id, at));
            }
            Fact::Revoked { token, .. } => {
                self.revoked.insert(token);
            }
            Fact::MailboxPolled { mailbox, position } => {
                self.positions.insert(mailbox, position);
            }
            Fact::NonceUsed { nonce, content, .. } => {
                self.nonces.insert(nonce, content);
            }
            Fact::MessageRecorded {
                conversation: key,
                message,
            } => {
                self.messages
                    .insert((conversation(&key), message.by_us), message);
            }
            Fact::Unsuppressed { address, .. } => {
                self.suppressions.remove(&address);
            }
            Fact::CursorAdvanced {
                subscriber,
                event,
                open,
                ..
            } => {
                let cursor = Cursor {
                    last: event,
                    gaps: open,
                };
                let place = |cursor: &Cursor| (cursor.last, std::cmp::Reverse(cursor.gaps.len()));
                let known = self.cursors.entry(subscriber).or_default();
                if place(known) < place(&cursor) {
                    *known = cursor;
                }
            }
            Fact::Advanced { .. } | Fact::Settled { .. } | Fact::Released { .. } => {
                return self.apply_to_delivery(fact);
            }
            fact => return self.apply_to_job(fact, mail),
        }
        true
    }

    pub(super) fn apply_to_delivery(&mut self, fact: Fact) -> bool {
        let id = match &fact {
            Fact::Advanced { delivery, .. }
            | Fact::Settled { delivery, .. }
            | Fact::Released { delivery, .. } => *delivery,
            _ => return false,
        };
        let Some(open) = self.open.get_mut(&id) else {
            return false;
        };
        match fact {
            Fact::Advanced { step, .. } => {
                let kind = std::mem::discriminant(&step);
                open.steps
                    .retain(|known| std::mem::discriminant(known) != kind);
                open.steps.push(step);
            }
            Fact::Released { .. } => return open.parked.take().is_some(),
            Fact::Settled {
                outcome,
                fingerprint,
                at,
                ..
            } => {
                if let Some(Fingerprint(name)) = fingerprint {
                    self.fingerprints.insert(name, (at, id));
                }
                match outcome {
                    DeliveryOutcome::Parked { reason } => {
                        open.parked = Some(reason);
                        return true;
                    }
                    DeliveryOutcome::Delivered { .. } => self.ledger.delivered += 1,
                    DeliveryOutcome::Dropped { rule } => {
                        *self.ledger.dropped.entry(rule).or_default() += 1;
                    }
                }
                self.open.remove(&id);
                if !self.open.keys().any(|open| open.mail == id.mail) {
                    self.mails.remove(&id.mail);
                }
            }
            _ => {}
        }
        true
    }

    pub(super) fn apply_to_job(&mut self, fact: Fact, mail: Bytes) -> bool {
        let seq = self.seq;
        if let Fact::Enqueued(job) = fact {
            if self.holder(&job).is_some() {
                return false;
            }
            self.taken += 1;
            let stored = StoredJob::new(*job.clone(), seq);
            self.jobs.insert(job.id, MemoryJob { stored, mail });
            return true;
        }
        let Some(job) = fact.job().and_then(|id| self.jobs.get_mut(&id)) else {
            return false;
        };
        let state = job.stored.record.state.kind();
        let is_kept = job.stored.settled.is_none();
        let means = match &fact {
            Fact::Begun { .. } | Fact::Deferred { .. } | Fact::Ended { .. } => {
                state == JobStateKind::Waiting
            }
            Fact::Retried { .. } => match state {
                JobStateKind::Waiting => job.stored.record.begun_at.is_none(),
                _ => is_kept && matches!(state, JobStateKind::Failed | JobStateKind::Captured),
            },
            Fact::NoticeReceived { notice, .. } => {
                !(notice.failed && state == JobStateKind::Bounced)
            }
            _ => false,
        };
        if means {
            job.stored.apply(fact, seq);
        }
        means
    }

    /// The job with one of this job's keys, or its id.
    pub(super) fn holder(&self, job: &Job) -> Option<&JobRecord> {
        let keys: Vec<[u8; 16]> = job.keys().collect();
        let has_key = |known: &&JobRecord| known.job.keys().any(|key| keys.contains(&key));
        let mut records = self.jobs.values().map(|known| &known.stored.record);
        records
            .find(has_key)
            .or_else(|| self.jobs.get(&job.id).map(|known| &known.stored.record))
    }

    pub(super) fn in_state(&self, state: JobStateKind) -> impl Iterator<Item = &MemoryJob> {
        let jobs = self.jobs.values();
        jobs.filter(move |job| job.stored.record.state.kind() == state)
    }

    /// Deletes the mails of the oldest failed and captured jobs above the bound.
    pub(super) fn drop_surplus(&mut self, settings: &Settings) {
        for (state, most) in [
            (JobStateKind::Failed, settings.failed_kept),
            (JobStateKind::Captured, settings.captured_kept),
        ] {
            let kept = self
                .in_state(state)
                .filter(|job| job.stored.settled.is_none());
            let mut kept: Vec<(Option<Timestamp>, JobId)> = kept
                .map(|job| (job.stored.over_at, job.stored.record.job.id))
                .collect();
            kept.sort_unstable();
            let surplus = kept.len().saturating_sub(most);
            for (_, id) in kept.into_iter().take(surplus) {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.stored.settle(self.seq);
                }
            }
        }
    }

    /// The first waiting job of each thread and recipient, by due time.
    pub(super) fn due(&self) -> Vec<(Timestamp, JobId, Arc<str>)> {
        let mut firsts: HashMap<[Option<String>; 3], (u64, &JobRecord)> = HashMap::new();
        for job in self.in_state(JobStateKind::Waiting) {
            let record = &job.stored.record;
            let line = line_of(record);
            let first = firsts.entry(line).or_insert((job.stored.order, record));
            if job.stored.order < first.0 {
                *first = (job.stored.order, record);
            }
        }
        let due = firsts
            .into_values()
            .filter_map(|(_, record)| match record.state {
                JobState::Waiting { due_at } => {
                    let domain = record.job.recipient.domain().ascii();
                    Some((due_at, record.job.id, Arc::from(domain.as_str())))
                }
                _ => None,
            });
        let mut due: Vec<_> = due.collect();
        due.sort_unstable();
        due
    }

    /// The first waiting delivery in the partition of a waiting one, if that is another.
    pub(super) fn delivery_ahead(&self, id: DeliveryId) -> Option<DeliveryId> {
        let line = |id: DeliveryId| {
            let delivery = self.delivery(id).filter(|d| d.parked.is_none())?;
            Some(PartitionKey::of(&delivery.envelope, &delivery.recipient))
        };
        let own = line(id)?;
        let mut waiting = self.deliveries(None, false);
        let first = waiting.find(|other| line(*other) == Some(own));
        first.filter(|first| *first != id)
    }

    /// The first waiting job in the order of a waiting one, if that is another.
    pub(super) fn job_ahead(&self, id: JobId) -> Option<JobId> {
        let line = |job: &MemoryJob| line_of(&job.stored.record);
        let mut waiting = self.in_state(JobStateKind::Waiting);
        let own = line(waiting.find(|job| job.stored.record.job.id == id)?);
        let waiting = self.in_state(JobStateKind::Waiting);
        let mates = waiting.filter(|job| line(job) == own);
        let first = mates.min_by_key(|job| job.stored.order)?;
        Some(first.stored.record.job.id).filter(|first| *first != id)
    }

    pub(super) fn delivery(&self, id: DeliveryId) -> Option<Delivery> {
        let open = self.open.get(&id)?;
        let (envelope, bytes) = self.mails.get(&id.mail)?;
        Some(Delivery {
            id,
            envelope: Arc::clone(envelope),
            recipient: envelope.recipients.get(usize::from(id.recipient))?.clone(),
            steps: open.steps.clone(),
            parked: open.parked.clone(),
            bytes: bytes.len() as u64,
        })
    }

    pub(super) fn deliveries(
        &self,
        after: Option<DeliveryId>,
        parked: bool,
    ) -> impl Iterator<Item = DeliveryId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let open = self.open.range((from, Bound::Unbounded));
        open.filter(move |(_, open)| open.parked.is_some() == parked)
            .map(|(id, _)| *id)
    }
}
