//! Owns the way of a draft into the outbox: what it leaves out is filled in, each recipient's mail is
//! made, and it is kept with all that is to be remembered of it.
//!
//! Does not send, and does not know how a draft came.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time;

use super::compose::{ComposeError, HeaderText, Templates, WebAddressForm};
use crate::clock::{self, Timestamp};
use crate::mail::address::{Address, Domain};
use crate::mail::draft::{Draft, DraftCall, DraftPart, posted_marker};
use crate::mail::job_id::{self, JobId};
use crate::mail::token::{Format, KeyRing, ThreadKey};
use crate::store::{Job, Mapping, RecordError, Store, Suppression};
use plan::DraftPlan;

/// Locks that threads share: two of one thread never pass each other.
const LOCK_COUNT: usize = 256;
/// So long, and so often, a message that is on its way into a thread is waited for: a product that tells
/// of it before it answers would else wait for itself.
const IN_FLIGHT_WAIT: Duration = Duration::from_millis(50);
const IN_FLIGHT_WAITS_MAX: u32 = 40;

/// What the intake must know of a route.
#[derive(Clone)]
pub struct OutboundRoute {
    /// Its name.
    pub name: String,
    /// Its reply domains; the first is minted for.
    pub domains: Vec<Domain>,
    /// What signs tokens, Message-IDs and return paths.
    pub keys: Arc<KeyRing>,
    /// The form of the tokens.
    pub format: Format,
    /// The mark by which we know our own mail.
    pub loop_mark: HeaderText,
    /// The line under which nothing is reply; `None` is the language's own.
    pub marker: Option<String>,
}

/// What holds for every mail.
#[derive(Clone, Debug)]
pub struct IntakeSettings {
    /// Whose mailbox all mail comes from.
    pub from: Address,
    /// The product's name; may be empty.
    pub product_name: String,
    /// How long a job is tried.
    pub age_max: Duration,
    /// How many jobs must have come back for good before an address is held back.
    pub suppress_after: u32,
    /// The list all mail belongs to.
    pub list_id: Option<Domain>,
    /// What takes the POST that ends these mails.
    pub list_unsubscribe: Option<WebAddressForm>,
}

/// Takes drafts.
pub struct OutboundIntake {
    store: Store,
    /// At least one.
    routes: Vec<OutboundRoute>,
    settings: IntakeSettings,
    templates: Arc<Templates>,
    in_flight: Arc<dyn InFlightCheck>,
    locks: Vec<Mutex<()>>,
}

/// What Postern tells the product at this moment.
pub trait InFlightCheck: Send + Sync {
    /// Is a message on its way into this thread, and does one of those say just `text`? `None`: none
    /// is, and the store knows each by its id.
    fn contains_text(&self, route: &str, thread: &str, text: &str) -> Option<bool>;
}

/// The jobs of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedJobs {
    /// The recipient's, then one for each copy.
    pub jobs: Vec<JobId>,
    /// At least one of them is new.
    pub is_new: bool,
}

/// Why a draft is not taken.
#[derive(Debug, Error)]
pub enum IntakeError {
    /// One of the keys was there with another content.
    #[error("the key was used for other content, by job {0}")]
    Conflict(JobId),
    /// A mail could not be made, and no part of the draft is why.
    #[error("mail cannot be made")]
    Compose(#[source] ComposeError),
    /// What makes mails broke down.
    #[error("making of the mail broke off")]
    ComposePanicked,
    /// The system has no random bytes to give.
    #[error("no random bytes")]
    Random,
    /// The store takes nothing now.
    #[error("not kept")]
    Store(#[from] RecordError),
    /// Nothing is sent to this address.
    #[error("{address} is held back: {reason}")]
    Suppressed {
        /// Which part names it.
        part: DraftPart,
        /// The address.
        address: String,
        /// Why it is on the list.
        reason: String,
    },
    /// A part of the draft cannot be taken.
    #[error("{why}")]
    Invalid {
        /// Which.
        part: DraftPart,
        /// Why, for the product.
        why: String,
    },
}

impl OutboundIntake {
    /// An intake into `store`. There must be at least one route: without one nothing is taken.
    pub fn new(
        store: Store,
        routes: Vec<OutboundRoute>,
        settings: IntakeSettings,
        templates: Arc<Templates>,
        underway: Arc<dyn InFlightCheck>,
    ) -> Self {
        Self {
            store,
            routes,
            settings,
            templates,
            in_flight: underway,
            locks: (0..LOCK_COUNT).map(|_| Mutex::default()).collect(),
        }
    }

    /// Makes the mails of a draft and keeps them: what is named is on disk. The same draft again names
    /// the same jobs, whatever became of them. `None`: the product tells of a message that Postern posted,
    /// and its author needs no mail of his own words.
    ///
    /// # Errors
    /// Says which part of the draft is at fault, or why nothing is taken now. Copies are taken one by
    /// one: who tries again after an error with the same key completes what is missing.
    pub async fn accept(&self, draft: Draft) -> Result<Option<QueuedJobs>, IntakeError> {
        let (route, mapping) = self.route_for(&draft)?;
        let routes = match (&draft.route, mapping) {
            // While the first message of a thread is on its way nothing is known of it.
            (None, None) => &self.routes,
            _ => std::slice::from_ref(route),
        };
        if self.is_own_message(routes, &draft).await {
            return Ok(None);
        }
        self.enqueue_draft(draft).await.map(Some)
    }

    /// Did Postern itself post the message that the product tells of? While one is on its way into the
    /// thread, and has no id yet, this waits; then what it says must tell.
    async fn is_own_message(&self, routes: &[OutboundRoute], draft: &Draft) -> bool {
        let Some(id) = draft
            .message_id
            .as_deref()
            .filter(|_| draft.call == DraftCall::Event)
        else {
            return false;
        };
        let thread = draft.thread_id.as_str();
        let says = |route: &OutboundRoute| {
            self.in_flight
                .contains_text(&route.name, thread, &draft.text)
        };
        let is_posted = |route: &OutboundRoute| {
            let word = posted_marker(&route.name, thread, id);
            self.store.nonce_used(word).is_some()
        };
        let mut waits = 0;
        loop {
            // Looked at before the store: what ends between the two looks has its id there.
            let underway = routes.iter().filter_map(says).max();
            if routes.iter().any(is_posted) {
                return true;
            }
            match underway {
                None => return false,
                Some(same) if waits == IN_FLIGHT_WAITS_MAX => return same,
                Some(_) => time::sleep(IN_FLIGHT_WAIT).await,
            }
            waits += 1;
        }
    }

    async fn enqueue_draft(&self, mut draft: Draft) -> Result<QueuedJobs, IntakeError> {
        let key = ThreadKey::of(&draft.thread_id);
        // What the next mail of the thread refers to is what this one leaves behind.
        let _turn = self.locks[usize::from(key.0[0])].lock().await;
        let (route, mapping) = self.route_for(&draft)?;
        let content = draft.content_digest();
        let recipient = draft
            .recipient
            .clone()
            .or_else(|| mapping.as_ref()?.participant.clone());
        let Some(recipient) = recipient else {
            let why = "is needed: nothing is known of this thread".to_owned();
            let part = DraftPart::Recipient;
            return Err(IntakeError::Invalid { part, why });
        };
        draft
            .cc
            .retain(|copied| copied.folded() != recipient.folded());
        let all: Vec<&Address> = [&recipient].into_iter().chain(&draft.cc).collect();
        let mut jobs: Vec<Option<Job>> = Vec::new();
        for to in &all {
            jobs.push(self.existing_job(&draft, &route.name, to, content)?);
        }
        let now = clock::now();
        // All are looked at before the first is taken.
        for (to, job) in all.iter().zip(&jobs) {
            if job.is_none() {
                self.check_recipient(&draft, to, &recipient, now)?;
            }
        }
        let is_new = jobs.contains(&None);
        let first = plan::random_job_id()?;
        // Everybody gets the same mail: who is told of it by another finds it in his own mailbox.
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

    /// The job of the same request for `to`, if it was taken before.
    fn existing_job(
        &self,
        draft: &Draft,
        route: &str,
        to: &Address,
        content: [u8; 16],
    ) -> Result<Option<Job>, IntakeError> {
        let (key, also) = draft.job_keys(route, to);
        let mut keys = [Some(key), also].into_iter().flatten();
        match keys.find_map(|key| self.store.job_by_key(key)) {
            Some(known) if known.job.content != content => Err(IntakeError::Conflict(known.job.id)),
            known => Ok(known.map(|known| known.job)),
        }
    }

    /// The route a draft is for, and what is known of its thread there. Products of two routes may use the
    /// same ids, so a draft that names no route is for the one that knows its thread.
    fn route_for(&self, draft: &Draft) -> Result<(&OutboundRoute, Option<Mapping>), IntakeError> {
        let unfit = |why: &str| IntakeError::Invalid {
            part: DraftPart::Route,
            why: why.to_owned(),
        };
        let key = ThreadKey::of(&draft.thread_id);
        if let Some(name) = &draft.route {
            let route = self.routes.iter().find(|route| route.name == *name);
            let route = route.ok_or_else(|| unfit("there is no route of this name"))?;
            return Ok((route, self.store.thread(name, key)));
        }
        let mut known = self.routes.iter().filter_map(|route| {
            let mapping = self.store.thread(&route.name, key)?;
            Some((route, Some(mapping)))
        });
        match (known.next(), known.next()) {
            (Some(_), Some(_)) => Err(unfit("is needed: threads of two routes have this id")),
            (Some(only), None) => Ok(only),
            (None, _) => match self.routes.first() {
                Some(first) => Ok((first, None)),
                None => Err(unfit("there is none")),
            },
        }
    }

    /// May mail be sent to `to`?
    fn check_recipient(
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
                "{}: is a reply domain, mail to it would come back",
                to.domain()
            );
            return Err(IntakeError::Invalid { part, why });
        }
        if draft.recipient.is_none() && part == DraftPart::Recipient && !to.local().is_ascii() {
            let why = "the address known of this thread cannot be written in ASCII".to_owned();
            return Err(IntakeError::Invalid { part, why });
        }
        match self.store.suppression(to, now) {
            Some(held) if self.is_suppressing(&held) => Err(IntakeError::Suppressed {
                part,
                address: held.address,
                reason: held.reason,
            }),
            _ => Ok(()),
        }
    }

    /// A person put it on the list, or enough came back.
    const fn is_suppressing(&self, suppression: &Suppression) -> bool {
        suppression.bounces == 0 || suppression.bounces >= self.settings.suppress_after
    }
}
