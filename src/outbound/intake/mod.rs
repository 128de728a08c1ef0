//! Owns the path of a draft into the outbox: missing parts are filled in, and the mail of each recipient is
//! composed and stored with all related facts.
//!
//! Does not send, and does not know the origin of a draft.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time;

use super::compose::{ComposeError, HeaderText, Templates, WebAddressForm};
use crate::clock::{self, Timestamp};
use crate::mail::address::{Address, Domain};
use crate::mail::draft::{Draft, DraftCall, DraftPart, posted_marker};
use crate::mail::job_id::{self, JobId};
use crate::mail::token::{Format, KeyRing, ThreadKey};
use crate::store::{Job, LeaseName, Mapping, Store, StoreError, Suppression};
use plan::DraftPlan;

/// The interval of the checks while a message is being posted into the thread. Their number is bounded,
/// because a product that reports the message before it responds would wait for itself.
const IN_FLIGHT_WAIT: Duration = Duration::from_millis(50);
const IN_FLIGHT_WAITS_MAX: u32 = 40;

/// The properties of a route that the intake needs.
#[derive(Clone)]
pub struct OutboundRoute {
    /// The name of the route.
    pub name: String,
    /// The reply domains; reply addresses are made at the first one.
    pub domains: Vec<Domain>,
    /// The keys that sign tokens, Message-IDs and return paths.
    pub keys: Arc<KeyRing>,
    /// The format of new tokens.
    pub format: Format,
    /// The mark by which Postern recognises its own mail.
    pub loop_mark: HeaderText,
    /// The line above which people reply; `None` is the default of the language.
    pub marker: Option<String>,
}

/// Settings for all mail.
#[derive(Clone, Debug)]
pub struct IntakeSettings {
    /// The author address of all mail.
    pub from: Address,
    /// The product's name; may be empty.
    pub product_name: String,
    /// The time until a job expires.
    pub age_max: Duration,
    /// The number of hard bounces that suppress an address.
    pub suppress_after: u32,
    /// The list to which all mail belongs.
    pub list_id: Option<Domain>,
    /// The address for the one-click unsubscribe POST.
    pub list_unsubscribe: Option<WebAddressForm>,
}

/// Accepts drafts into the outbox.
pub struct OutboundIntake {
    store: Store,
    /// The routes, at least one.
    routes: Vec<OutboundRoute>,
    settings: IntakeSettings,
    templates: Arc<Templates>,
}

/// The jobs of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedJobs {
    /// The recipient's job, then one for each copy.
    pub jobs: Vec<JobId>,
    /// True if at least one of the jobs is new.
    pub is_new: bool,
}

/// The reason why a draft is not accepted.
#[derive(Debug, Error)]
pub enum IntakeError {
    /// One of the idempotency keys was used before with other content.
    #[error("the key was used with other content, by job {0}")]
    Conflict(JobId),
    /// A mail could not be composed, but the draft is valid.
    #[error("mail cannot be composed")]
    Compose(#[source] ComposeError),
    /// The composition of the mail panicked.
    #[error("composing the mail panicked")]
    ComposePanicked,
    /// The system has no random bytes.
    #[error("no random bytes")]
    Random,
    /// The store accepts nothing now.
    #[error("not kept")]
    Store(#[from] StoreError),
    /// The address is suppressed.
    #[error("{address} is suppressed: {reason}")]
    Suppressed {
        /// The part of the draft that names the address.
        part: DraftPart,
        /// The suppressed address.
        address: String,
        /// The reason of the suppression.
        reason: String,
    },
    /// A part of the draft is invalid.
    #[error("{why}")]
    Invalid {
        /// The invalid part.
        part: DraftPart,
        /// The explanation for the product.
        why: String,
    },
}

impl OutboundIntake {
    /// An intake into `store`. Without any route no draft is accepted.
    pub fn new(
        store: Store,
        routes: Vec<OutboundRoute>,
        settings: IntakeSettings,
        templates: Arc<Templates>,
    ) -> Self {
        Self {
            store,
            routes,
            settings,
            templates,
        }
    }

    /// Composes the mails of a draft and stores them: every returned job is on disk. A repeated draft
    /// returns the same jobs in any state. `None` means that the product reports a message that Postern
    /// posted, whose author needs no copy.
    ///
    /// # Errors
    /// Names the invalid part of the draft, or the reason why nothing is accepted now. Copies are stored
    /// one by one: another call with the same key completes the missing ones.
    pub async fn accept(&self, draft: Draft) -> Result<Option<QueuedJobs>, IntakeError> {
        let (route, mapping) = self.route_for(&draft).await?;
        let routes = match (&draft.route, mapping) {
            // Nothing is known about a thread while its first message is being posted.
            (None, None) => &self.routes,
            _ => std::slice::from_ref(route),
        };
        if self.is_own_message(routes, &draft).await? {
            return Ok(None);
        }
        self.enqueue_draft(draft).await.map(Some)
    }

    /// True if Postern itself posted the message that the product reports. While a message without an id
    /// yet is being posted into the thread, this waits; after that the text decides.
    async fn is_own_message(
        &self,
        routes: &[OutboundRoute],
        draft: &Draft,
    ) -> Result<bool, StoreError> {
        let Some(id) = draft
            .message_id
            .as_deref()
            .filter(|_| draft.call == DraftCall::Event)
        else {
            return Ok(false);
        };
        let thread = draft.thread_id.as_str();
        let mut waits = 0;
        loop {
            // The messages in flight are read before the store: a post that ends between the two
            // has its id in the store.
            let mut underway = None;
            for route in routes {
                let posting = self.store.is_posting(&route.name, thread, &draft.text);
                underway = underway.max(posting.await?);
            }
            for route in routes {
                let marker = posted_marker(&route.name, thread, id);
                if self.store.nonce_used(marker).await?.is_some() {
                    return Ok(true);
                }
            }
            match underway {
                None => return Ok(false),
                Some(same) if waits == IN_FLIGHT_WAITS_MAX => return Ok(same),
                Some(_) => time::sleep(IN_FLIGHT_WAIT).await,
            }
            waits += 1;
        }
    }

    async fn enqueue_draft(&self, mut draft: Draft) -> Result<QueuedJobs, IntakeError> {
        let key = ThreadKey::of(&draft.thread_id);
        // The next mail of the thread refers to the facts of this one.
        let _composing = self.store.lease(LeaseName::Composing(key)).await?;
        let (route, mapping) = self.route_for(&draft).await?;
        let content = draft.content_digest();
        let recipient = draft
            .recipient
            .clone()
            .or_else(|| mapping.as_ref()?.participant.clone());
        let Some(recipient) = recipient else {
            let why = "is required: nothing is known about this thread".to_owned();
            let part = DraftPart::Recipient;
            return Err(IntakeError::Invalid { part, why });
        };
        draft
            .cc
            .retain(|copied| copied.folded() != recipient.folded());
        let all: Vec<&Address> = [&recipient].into_iter().chain(&draft.cc).collect();
        let mut jobs: Vec<Option<Job>> = Vec::new();
        for to in &all {
            jobs.push(self.existing_job(&draft, &route.name, to, content).await?);
        }
        let now = clock::now();
        // All recipients are checked before the first job is stored.
        for (to, job) in all.iter().zip(&jobs) {
            if job.is_none() {
                self.check_recipient(&draft, to, &recipient, now).await?;
            }
        }
        let is_new = jobs.contains(&None);
        let first = plan::random_job_id()?;
        // Every recipient gets the same Message-ID, so that references to it work in each mailbox.
        let known = jobs.iter().flatten().next();
        let message_id = match known {
            Some(known) => known.message_id.clone(),
            None => job_id::message_id(&route.keys, &route.domains[0], first),
        };
        let plan = DraftPlan {
            intake: self,
            draft: Arc::new(draft.clone()),
            route,
            mapping,
            recipient: recipient.clone(),
            content,
            first_job: first,
            message_id,
            is_resumed: known.is_some(),
            now,
        };
        let mut queued = Vec::new();
        for (to, job) in all.into_iter().zip(jobs) {
            queued.push(match job {
                Some(known) => known.id,
                None => plan.enqueue(to).await?,
            });
        }
        Ok(QueuedJobs {
            jobs: queued,
            is_new,
        })
    }

    /// The job of the same request for `to`, if it exists.
    async fn existing_job(
        &self,
        draft: &Draft,
        route: &str,
        to: &Address,
        content: [u8; 16],
    ) -> Result<Option<Job>, IntakeError> {
        let (key, second_key) = draft.job_keys(route, to);
        for key in [Some(key), second_key].into_iter().flatten() {
            let Some(known) = self.store.job_by_key(key).await? else {
                continue;
            };
            if known.job.content != content {
                return Err(IntakeError::Conflict(known.job.id));
            }
            return Ok(Some(known.job));
        }
        Ok(None)
    }

    /// The route of a draft, and the mapping of its thread there. Products of two routes may use
    /// the same ids, so a draft without a route belongs to the route that knows its thread.
    async fn route_for(
        &self,
        draft: &Draft,
    ) -> Result<(&OutboundRoute, Option<Mapping>), IntakeError> {
        let unfit = |why: &str| IntakeError::Invalid {
            part: DraftPart::Route,
            why: why.to_owned(),
        };
        let key = ThreadKey::of(&draft.thread_id);
        if let Some(name) = &draft.route {
            let route = self.routes.iter().find(|route| route.name == *name);
            let route = route.ok_or_else(|| unfit("no route has this name"))?;
            return Ok((route, self.store.thread(name, key).await?));
        }
        let mut known = None;
        for route in &self.routes {
            let Some(mapping) = self.store.thread(&route.name, key).await? else {
                continue;
            };
            if known.is_some() {
                return Err(unfit("is required: threads of two routes have this id"));
            }
            known = Some((route, Some(mapping)));
        }
        let first = || self.routes.first().map(|first| (first, None));
        known.or_else(first).ok_or_else(|| unfit("there is none"))
    }

    /// Checks that mail may be sent to `to`.
    async fn check_recipient(
        &self,
        draft: &Draft,
        to: &Address,
        recipient: &Address,
        now: Timestamp,
    ) -> Result<(), IntakeError> {
        let part = match to == recipient {
            true => DraftPart::Recipient,
            false => DraftPart::Cc,
        };
        let mut domains = self.routes.iter().flat_map(|route| &route.domains);
        if domains.any(|domain| domain == to.domain()) {
            let why = format!(
                "{}: is a reply domain, so mail to it would come back",
                to.domain()
            );
            return Err(IntakeError::Invalid { part, why });
        }
        if draft.recipient.is_none() && part == DraftPart::Recipient && !to.local().is_ascii() {
            let why = "the address of this thread cannot be written in ASCII".to_owned();
            return Err(IntakeError::Invalid { part, why });
        }
        match self.store.suppression(to, now).await? {
            Some(held) if self.is_suppressing(&held) => Err(IntakeError::Suppressed {
                part,
                address: held.address,
                reason: held.reason,
            }),
            _ => Ok(()),
        }
    }

    /// True if the entry prevents sending: a person made it, or there were enough bounces.
    const fn is_suppressing(&self, suppression: &Suppression) -> bool {
        suppression.bounces == 0 || suppression.bounces >= self.settings.suppress_after
    }
}
