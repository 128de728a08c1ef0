//! Owns finding a mail's thread: what the store knows is asked for here, the decision is
//! [`crate::mail::thread`]'s; and what is remembered of the thread once the mail is posted.
//!
//! Does not talk to the product.

use std::time::Duration;

use data_encoding::HEXLOWER;

use super::attempt::AttemptError;
use super::parsed_mail::ParsedMail;
use super::route::DeliveryRoute;
use super::sorting::{MailboxAssignment, ThreadHistory, assign};
use crate::auth::{Identity, identity};
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::envelope::RecipientTarget;
use crate::mail::job_id::job_of_message_id;
use crate::mail::mailbox;
use crate::mail::subject::Subject;
use crate::mail::text::cut;
use crate::mail::thread::{ThreadCandidate, ThreadDecision, ThreadFacts, ThreadReason, decide};
use crate::mail::token::{Claims, ThreadKey};
use crate::mail::verdict::{Verdict, VerdictSource};
use crate::store::{
    ConversationKey, Delivery, DeliveryStep, Fact, LastMessage, Mapping, Store, StoreError,
};

/// The most bytes of a name that are remembered.
const NAME_BYTES_MAX: usize = 256;
/// The most pictures of a thread that are remembered, the newest ones: a signature has a few.
const IMAGES_MAX: usize = 16;

/// What a thread is looked for with.
pub(super) struct ThreadLookup<'a> {
    pub(super) store: &'a Store,
    pub(super) route: &'a DeliveryRoute,
    pub(super) delivery: &'a Delivery,
    pub(super) verdict: &'a Verdict,
    pub(super) subject_window: Duration,
}

/// Where a mail belongs.
#[derive(Clone, Debug)]
pub(super) struct ThreadMatch {
    /// The product's id of the thread; `None` if it is yet to be created.
    pub(super) thread: Option<String>,
    /// The reason for this thread.
    pub(super) reason: &'static str,
    /// The mailbox and the priority.
    pub(super) sorted: MailboxAssignment,
    pub(super) identity: Identity,
    /// Digests of the pictures that earlier mails of the thread have shown.
    pub(super) known_images: Vec<[u8; 8]>,
    /// True if the author becomes the participant of a thread without one.
    introduces_author: bool,
}

impl ThreadLookup<'_> {
    /// The thread that a mail is in already, whose words need not be cut out yet.
    pub(super) async fn current_thread(
        &self,
        mail: &ParsedMail,
        now: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        if let Some(made) = self.created_thread() {
            return Ok(Some(made));
        }
        let decided = self.decide_thread(mail, self.token_claims(), now).await?;
        Ok(decided.ok().and_then(|(thread, _)| thread))
    }

    /// What we said last in the thread of a mail: to its author, or else to whom the thread is with, who may
    /// have passed it on.
    pub(super) async fn our_last_message(
        &self,
        mail: &ParsedMail,
        now: Timestamp,
    ) -> Result<Option<LastMessage>, StoreError> {
        let Some(thread) = self.current_thread(mail, now).await? else {
            return Ok(None);
        };
        if let Some(author) = &mail.author
            && let Some(message) = self.our_message_to(&thread, author).await?
        {
            return Ok(Some(message));
        }
        let mapping = self.mapping(ThreadKey::of(&thread)).await?;
        match mapping.and_then(|mapping| mapping.participant) {
            Some(participant) => self.our_message_to(&thread, &participant).await,
            None => Ok(None),
        }
    }

    async fn our_message_to(
        &self,
        thread: &str,
        with: &Address,
    ) -> Result<Option<LastMessage>, StoreError> {
        let conversation = self.conversation_key(thread, with);
        match self.store.last_message(&conversation, true).await {
            // Without it less of what is quoted is recognised, and nothing is lost.
            Err(StoreError::Damaged) => Ok(None),
            found => found,
        }
    }

    fn conversation_key(&self, thread: &str, with: &Address) -> ConversationKey {
        ConversationKey {
            route: self.route.name.clone(),
            thread_id: thread.to_owned(),
            with: with.folded(),
        }
    }

    fn token_claims(&self) -> Option<&Claims> {
        match &self.delivery.recipient.target {
            RecipientTarget::Thread(claims) => Some(claims),
            RecipientTarget::Mailbox(_) | RecipientTarget::Return(_) => None,
        }
    }

    /// Finds the thread, or says why a person must.
    pub(super) async fn find(
        &self,
        mail: &ParsedMail,
        now: Timestamp,
    ) -> Result<ThreadMatch, AttemptError> {
        let claims = self.token_claims();
        let made = self.created_thread();
        // A thread this very mail began has no past.
        let is_begun = made.is_some();
        let (thread, reason) = match made {
            // Decided in an earlier attempt, and the product has acted on it.
            Some(thread) => (Some(thread), ThreadReason::None),
            None => {
                let decided = self.decide_thread(mail, claims, now).await?;
                decided.map_err(AttemptError::Park)?
            }
        };
        let mapping = match &thread {
            Some(id) => self.mapping(ThreadKey::of(id)).await?,
            None => None,
        };
        let is_old = thread.is_some() && (mapping.is_some() || !is_begun);
        let past = is_old.then(|| ThreadHistory::of(mapping.as_ref()));
        let author = mail.author.as_ref();
        let takes_part =
            author.is_some_and(|author| self.is_participant(author, claims, mapping.as_ref()));
        let who = identity(self.verdict, author, takes_part, claims.is_some());
        Ok(ThreadMatch {
            sorted: self.assign_mailbox(mail, who == Identity::Verified, past.as_ref()),
            thread,
            reason: reason.as_str(),
            identity: who,
            known_images: mapping.map(|mapping| mapping.images).unwrap_or_default(),
            introduces_author: self.may_introduce_author(mail, claims),
        })
    }

    fn assign_mailbox(
        &self,
        mail: &ParsedMail,
        verified: bool,
        past: Option<&ThreadHistory>,
    ) -> MailboxAssignment {
        let recipient = &self.delivery.recipient;
        let facts = mailbox::SortingFacts {
            recipient: Some(&recipient.address),
            sender: mail.author.as_ref(),
            verified,
            kind: mail.kind,
            subject: &mail.subject,
            body: &mail.body,
            mailbox: None,
            thread: None,
        };
        let named = match &recipient.target {
            RecipientTarget::Mailbox(name) => Some(name.as_str()),
            RecipientTarget::Thread(_) | RecipientTarget::Return(_) => None,
        };
        assign(&self.route.policy.rules, &facts, named, past)
    }

    async fn mapping(&self, thread: ThreadKey) -> Result<Option<Mapping>, StoreError> {
        self.store.thread(&self.route.name, thread).await
    }

    fn created_thread(&self) -> Option<String> {
        self.delivery.steps.iter().find_map(|step| match step {
            DeliveryStep::ThreadMade { thread_id }
            | DeliveryStep::MessagePosted { thread_id, .. } => Some(thread_id.clone()),
            DeliveryStep::Approved => None,
        })
    }

    async fn decide_thread(
        &self,
        mail: &ParsedMail,
        claims: Option<&Claims>,
        now: Timestamp,
    ) -> Result<Result<(Option<String>, ThreadReason), String>, StoreError> {
        let facts = ThreadFacts {
            author: mail.author.as_ref(),
            is_authenticated: self.verdict.is_aligned(),
            subject: &mail.normalised_subject,
            now,
            subject_window: self.subject_window,
        };
        let candidates = match claims {
            // A token always counts: nothing else needs to be asked.
            Some(claims) => vec![self.candidate_from_token(claims).await?],
            None => self.candidates_from_headers(mail, now).await?,
        };
        Ok(match decide(&facts, &candidates) {
            ThreadDecision::Existing { thread_id, reason } => Ok((Some(thread_id), reason)),
            ThreadDecision::New { reason } => Ok((None, reason)),
            ThreadDecision::Conflict { reason } => {
                Err(format!("more than one thread by {}", reason.as_str()))
            }
        })
    }

    async fn candidate_from_token(&self, claims: &Claims) -> Result<ThreadCandidate, StoreError> {
        let mapping = self.mapping(claims.thread).await?;
        let participant = mapping.as_ref().and_then(|m| m.participant.clone());
        let changed_at = mapping.as_ref().map(|m| m.changed_at).unwrap_or_default();
        let known = claims.thread_id.clone();
        let known = known.or_else(|| mapping.map(|m| m.thread_id));
        let known = match known {
            Some(known) => Some(known),
            None => self.store.thread_by_token(claims.digest).await?,
        };
        Ok(ThreadCandidate {
            // Neither mapped nor minted here: only a UUID can have been the id.
            thread_id: known.unwrap_or_else(|| claims.thread.as_uuid_text()),
            participant,
            changed_at,
            reason: ThreadReason::Token,
        })
    }

    async fn candidates_from_headers(
        &self,
        mail: &ParsedMail,
        now: Timestamp,
    ) -> Result<Vec<ThreadCandidate>, StoreError> {
        let mut found = Vec::new();
        for (id, reason) in &mail.thread_references {
            let known = self
                .store
                .thread_by_message_id(&self.route.name, id)
                .await?;
            let Some((mapping, sent_by_us)) = known else {
                found.extend(self.candidate_from_job(id, *reason).await?);
                continue;
            };
            let reason = if sent_by_us {
                *reason
            } else {
                ThreadReason::StoredMessageId
            };
            found.push(candidate_from_mapping(mapping, reason));
        }
        if let Some(author) = &mail.author {
            let since = now.minus(self.subject_window);
            let name = self.route.name.as_str();
            let subject = &mail.normalised_subject;
            let mapping = self.store.thread_by_subject(name, author, subject, since);
            let mapping = mapping.await?;
            found.extend(
                mapping.map(|mapping| candidate_from_mapping(mapping, ThreadReason::Subject)),
            );
        }
        Ok(found)
    }

    /// A Message-ID whose link is forgotten tells its job by itself, if we made it.
    async fn candidate_from_job(
        &self,
        id: &str,
        reason: ThreadReason,
    ) -> Result<Option<ThreadCandidate>, StoreError> {
        let mut domains = self.route.message_id_domains.iter();
        let job = domains.find_map(|domain| job_of_message_id(&self.route.keys, domain, id));
        let Some(job) = job else {
            return Ok(None);
        };
        let Some(record) = self.store.job(job).await? else {
            return Ok(None);
        };
        let job = record.job;
        let Some(thread_id) = job.thread_id.filter(|_| job.route == self.route.name) else {
            return Ok(None);
        };
        let mapping = self.mapping(ThreadKey::of(&thread_id)).await?;
        let (participant, changed_at) = match mapping {
            Some(mapping) => (mapping.participant, mapping.changed_at),
            None => (None, job.made_at),
        };
        Ok(Some(ThreadCandidate {
            thread_id,
            participant: participant.or(Some(job.recipient)),
            changed_at,
            reason,
        }))
    }

    /// True if the thread is this author's: the token was minted for him, or he is its known sender.
    /// Without a token a thread that nobody is known in is one that he begins.
    fn is_participant(
        &self,
        author: &Address,
        claims: Option<&Claims>,
        mapping: Option<&Mapping>,
    ) -> bool {
        if let Some(claims) = claims.filter(|claims| claims.participant.is_some()) {
            return self.route.keys.is_participant(claims, author);
        }
        let Some(mapping) = mapping else {
            return claims.is_none();
        };
        let known = mapping.participant.as_ref();
        known.is_some_and(|known| known.folded() == author.folded())
    }

    /// Who holds a token that is bound to nobody is taken for the participant only if his domain
    /// vouches for him, or where nobody could tell.
    fn may_introduce_author(&self, mail: &ParsedMail, claims: Option<&Claims>) -> bool {
        let Some(claims) = claims else {
            return true;
        };
        if claims.participant.is_some() {
            let author = mail.author.as_ref();
            return author.is_some_and(|a| self.route.keys.is_participant(claims, a));
        }
        self.verdict.source == VerdictSource::Nobody || self.verdict.is_aligned()
    }
}

impl ThreadMatch {
    /// The name of the lock on the thread. A thread yet to be made has nobody to be locked out.
    pub(super) fn lock_name(&self, mail: &ParsedMail) -> String {
        match &self.thread {
            Some(thread) => format!("thread {thread}"),
            None => format!("new {}", HEXLOWER.encode(&mail.fingerprint.0)),
        }
    }

    /// What is remembered of the thread and the mail in it: recorded with the step that posted it.
    pub(super) async fn facts(
        &self,
        place: &ThreadLookup<'_>,
        mail: &ParsedMail,
        thread: &str,
        now: Timestamp,
    ) -> Result<Vec<Fact>, StoreError> {
        // Asked again in the thread's turn: others may have changed it since.
        let known = place.mapping(ThreadKey::of(thread)).await?;
        let mut mapping = known.unwrap_or_else(|| Mapping {
            mailbox: Some(self.sorted.mailbox.clone()),
            priority: Some(self.sorted.priority),
            ..Mapping::new(&place.route.name, thread, None, now)
        });
        if mapping.participant.is_none() && self.introduces_author {
            mapping.participant = mail.author.clone();
        }
        mapping.adopt_subject(&Subject::of(&mail.subject));
        mapping.changed_at = now;
        for image in mail.files.image_digests() {
            mapping.images.retain(|known| *known != image);
            mapping.images.push(image);
        }
        let surplus = mapping.images.len().saturating_sub(IMAGES_MAX);
        mapping.images.drain(..surplus);
        let mut facts = Vec::new();
        if let Some(id) = &mail.message_id {
            mapping.add_reference(id);
            mapping.last_message_id = Some(id.clone());
            facts.push(Fact::Linked {
                route: place.route.name.clone(),
                message_id: id.clone(),
                thread_id: thread.to_owned(),
                sent_by_us: false,
            });
        }
        facts.push(Fact::Mapped(mapping));
        facts.extend(Self::issued_token_fact(place, thread).await?);
        if let Some(author) = mail.author.as_ref().filter(|_| self.may_be_quoted(mail)) {
            facts.push(Fact::MessageRecorded {
                conversation: place.conversation_key(thread, author),
                message: last_message(mail, place.delivery.envelope.received_at),
            });
        }
        Ok(facts)
    }

    /// Words that anyone could have put under this address are never sent to it as its own.
    const fn may_be_quoted(&self, mail: &ParsedMail) -> bool {
        mail.kind.is_person() && !matches!(self.identity, Identity::Unverified)
    }

    /// A v1 token seen whole: if it comes lower-cased one day, this is how it is known again.
    async fn issued_token_fact(
        place: &ThreadLookup<'_>,
        thread: &str,
    ) -> Result<Option<Fact>, StoreError> {
        let RecipientTarget::Thread(claims) = &place.delivery.recipient.target else {
            return Ok(None);
        };
        if claims.thread_id.is_none() {
            return Ok(None);
        }
        let known = place.store.thread_by_token(claims.digest).await?;
        Ok(known.is_none().then(|| Fact::TokenIssued {
            token: claims.digest,
            thread_id: thread.to_owned(),
            at: claims.issued_at,
        }))
    }
}

fn candidate_from_mapping(mapping: Mapping, reason: ThreadReason) -> ThreadCandidate {
    ThreadCandidate {
        thread_id: mapping.thread_id,
        participant: mapping.participant,
        changed_at: mapping.changed_at,
        reason,
    }
}

/// The words of a mail, as they are shown below the next one we send.
fn last_message(mail: &ParsedMail, at: Timestamp) -> LastMessage {
    LastMessage {
        by_us: false,
        name: mail
            .sender_name
            .as_deref()
            .map(|name| cut(name, NAME_BYTES_MAX).to_owned()),
        at,
        text: cut(&mail.body, LastMessage::TEXT_BYTES_MAX).to_owned(),
    }
}
