//! Owns the collection of the facts from the store that a plan depends on.
//!
//! Does not decide anything. `mail explain` works without a store: then only the mail and its token count.

use super::parsed_mail::ParsedMail;
use super::plan::{KnownCandidate, KnownFacts, Planner};
use crate::mail::address::Address;
use crate::mail::job_id::job_of_message_id;
use crate::mail::thread::{ThreadCandidate, ThreadReason};
use crate::mail::token::{Claims, ThreadKey};
use crate::store::{
    ConversationKey, DeliveryId, LastMessage, Mapping, Store, StoreError, TokenFacts, TokenQuestion,
};

/// Reads the facts for one mail.
#[derive(Clone, Copy)]
pub struct FactReader<'a> {
    /// The store; `None` if there is none.
    pub store: Option<&'a Store>,
    /// The circumstances of the mail.
    pub planner: Planner<'a>,
}

impl FactReader<'_> {
    /// The facts for a mail. `own` is its delivery, which does not count as its duplicate.
    ///
    /// # Errors
    /// The store gives no answer.
    pub async fn read(
        &self,
        mail: &ParsedMail,
        own: Option<DeliveryId>,
    ) -> Result<KnownFacts, StoreError> {
        let begun = self.planner.begun_thread();
        let mut known = match self.planner.token_claims() {
            // A token always counts: no other fact is needed.
            Some(claims) if begun.is_none() => self.facts_of_token(mail, claims).await?,
            claims => KnownFacts {
                duplicate_of: self.duplicate_of(mail).await?,
                candidates: match claims.is_none() && begun.is_none() {
                    true => self.candidates_of_header(mail).await?,
                    false => Vec::new(),
                },
                ..KnownFacts::default()
            },
        };
        if let Some(thread) = begun {
            known.begun = self.mapping(ThreadKey::of(thread)).await?;
        }
        known.duplicate_of = known.duplicate_of.filter(|id| Some(*id) != own);
        Ok(known)
    }

    async fn duplicate_of(&self, mail: &ParsedMail) -> Result<Option<DeliveryId>, StoreError> {
        match self.store {
            Some(store) => {
                store
                    .find_duplicate(mail.fingerprint, self.planner.now)
                    .await
            }
            None => Ok(None),
        }
    }

    /// Our last message in the thread of a mail: to its author, or else to the participant of the thread,
    /// who may have forwarded it.
    ///
    /// # Errors
    /// The store gives no answer.
    pub async fn our_last_message(
        &self,
        mail: &ParsedMail,
        known: &KnownFacts,
    ) -> Result<Option<LastMessage>, StoreError> {
        let Some(store) = self.store else {
            return Ok(None);
        };
        let Some((thread, mapping)) = self.planner.current_thread(mail, known) else {
            return Ok(None);
        };
        let participant = mapping.and_then(|mapping| mapping.participant.as_ref());
        for with in mail.author.as_ref().into_iter().chain(participant) {
            let key = ConversationKey {
                route: self.planner.route.name.clone(),
                thread_id: thread.clone(),
                with: with.folded(),
            };
            let found = match &known.last_message {
                Some((read, found)) if *read == key => found.clone(),
                _ => store.last_message(&key, true).await?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn mapping(&self, thread: ThreadKey) -> Result<Option<Mapping>, StoreError> {
        match self.store {
            Some(store) => store.thread(&self.planner.route.name, thread).await,
            None => Ok(None),
        }
    }

    /// The thread is unknown if the token was issued by another store and does not contain the thread's
    /// id.
    async fn facts_of_token(
        &self,
        mail: &ParsedMail,
        claims: &Claims,
    ) -> Result<KnownFacts, StoreError> {
        let question = TokenQuestion {
            fingerprint: mail.fingerprint,
            route: self.planner.route.name.clone(),
            thread: claims.thread,
            thread_id: claims.told_thread_id(),
            token: claims.digest,
            author: mail.author.as_ref().map(Address::folded),
        };
        let facts = match self.store {
            Some(store) => store.token_facts(question, self.planner.now).await?,
            None => TokenFacts::default(),
        };
        let mapping = facts.mapping;
        let told = claims.thread_id.clone();
        let mapped = || mapping.as_ref().map(|m| m.thread_id.clone());
        let thread_id = told.or_else(mapped).or_else(|| facts.issued.clone());
        let thread_id = thread_id.or_else(|| claims.told_thread_id());
        let mut known = KnownFacts {
            duplicate_of: facts.duplicate_of,
            unknown_token: thread_id.is_none(),
            issued: facts.issued,
            last_message: facts.last_message,
            ..KnownFacts::default()
        };
        let Some(thread_id) = thread_id else {
            return Ok(known);
        };
        let candidate = ThreadCandidate {
            thread_id,
            participant: mapping.as_ref().and_then(|m| m.participant.clone()),
            changed_at: mapping.as_ref().map(|m| m.changed_at).unwrap_or_default(),
            reason: ThreadReason::Token,
        };
        known.candidates.push(KnownCandidate { candidate, mapping });
        Ok(known)
    }

    async fn candidates_of_header(
        &self,
        mail: &ParsedMail,
    ) -> Result<Vec<KnownCandidate>, StoreError> {
        let Some(store) = self.store else {
            return Ok(Vec::new());
        };
        let (planner, name) = (&self.planner, self.planner.route.name.as_str());
        let mut found = Vec::new();
        for (id, reason) in &mail.thread_references {
            let known = store.thread_by_message_id(name, id).await?;
            let Some((mapping, sent_by_us)) = known else {
                found.extend(self.candidate_of_job(store, id, *reason).await?);
                continue;
            };
            let reason = match sent_by_us {
                true => *reason,
                false => ThreadReason::StoredMessageId,
            };
            found.push(KnownCandidate::of(mapping, reason));
        }
        if let Some(author) = &mail.author {
            let since = planner.now.minus(planner.subject_window);
            let subject = &mail.normalised_subject;
            let mapping = store
                .thread_by_subject(name, author, subject, since)
                .await?;
            found.extend(mapping.map(|mapping| KnownCandidate::of(mapping, ThreadReason::Subject)));
        }
        Ok(found)
    }

    /// The thread of our job in a Message-ID, in case the link of the Message-ID was deleted.
    async fn candidate_of_job(
        &self,
        store: &Store,
        id: &str,
        reason: ThreadReason,
    ) -> Result<Option<KnownCandidate>, StoreError> {
        let route = self.planner.route;
        let mut domains = route.message_id_domains.iter();
        let job = domains.find_map(|domain| job_of_message_id(&route.keys, domain, id));
        let record = match job {
            Some(job) => store.job(job).await?,
            None => None,
        };
        let Some(job) = record.map(|record| record.job) else {
            return Ok(None);
        };
        let Some(thread_id) = job.thread_id.filter(|_| job.route == route.name) else {
            return Ok(None);
        };
        let mapping = self.mapping(ThreadKey::of(&thread_id)).await?;
        let participant = mapping.as_ref().and_then(|m| m.participant.clone());
        let candidate = ThreadCandidate {
            thread_id,
            participant: participant.or(Some(job.recipient)),
            changed_at: mapping.as_ref().map_or(job.made_at, |m| m.changed_at),
            reason,
        };
        Ok(Some(KnownCandidate { candidate, mapping }))
    }
}

impl KnownCandidate {
    fn of(mapping: Mapping, reason: ThreadReason) -> Self {
        let candidate = ThreadCandidate {
            thread_id: mapping.thread_id.clone(),
            participant: mapping.participant.clone(),
            changed_at: mapping.changed_at,
            reason,
        };
        Self {
            candidate,
            mapping: Some(mapping),
        }
    }
}
