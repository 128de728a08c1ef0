//! Owns the decisions for all mails of one draft, and the composition of each.
//!
//! Does not decide if a mail is composed.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use super::{IntakeError, OutboundIntake, OutboundRoute};
use crate::clock::Timestamp;
use crate::mail::address::{Address, Domain};
use crate::mail::draft::{Draft, DraftFile, DraftPart};
use crate::mail::job_id::{self, JobId};
use crate::mail::redact;
use crate::mail::subject::Subject;
use crate::mail::text::{bare_message_id, cut};
use crate::mail::token::{Format, ThreadKey};
use crate::outbound::compose::{
    self, ComposeError, Composed, HeaderFieldError, HeaderMailbox, HeaderName, HeaderText, Locale,
    OutgoingAttachment, OutgoingMail, compose,
};
use crate::store::{
    ConversationKey, EnqueueResult, Event, EventKind, Fact, Job, LastMessage, Mapping, StoreError,
};

/// The maximum length in octets of a subject in an event or a job.
const SUBJECT_BYTES_MAX: usize = 998;

/// A draft with all decisions except the recipient of one mail.
pub(super) struct DraftPlan<'a> {
    pub(super) intake: &'a OutboundIntake,
    pub(super) draft: Arc<Draft>,
    pub(super) route: &'a OutboundRoute,
    pub(super) mapping: Option<Mapping>,
    pub(super) recipient: Address,
    pub(super) content: [u8; 16],
    /// The id of the recipient's job, if that job is new.
    pub(super) first_job: JobId,
    /// The Message-ID of the mail, the same for all recipients.
    pub(super) message_id: String,
    /// True if some of the jobs existed before.
    pub(super) is_resumed: bool,
    pub(super) now: Timestamp,
}

impl DraftPlan<'_> {
    pub(super) async fn enqueue(&self, to: &Address) -> Result<JobId, IntakeError> {
        let is_copy = *to != self.recipient;
        let id = match (is_copy, self.is_resumed) {
            (false, _) => self.first_job,
            (true, false) => job_id::copy_of(&self.route.keys, self.first_job, to),
            // An earlier first job may have had this id and be deleted.
            (true, true) => random_job_id()?,
        };
        let letter = self.outgoing_mail(id, to).await?;
        let minted = self.issued_token_fact(&letter.reply_to);
        let (message_id, return_path) = (letter.message_id.clone(), letter.return_path.clone());
        // Pages show the job's subject; the mail itself is redacted when it is composed.
        let subject = redact::reply_addresses(&letter.subject, &letter.reply_domains).into_owned();
        let templates = Arc::clone(&self.intake.templates);
        let made = tokio::task::spawn_blocking(move || compose(&letter, &templates));
        let made = made.await.map_err(|_| IntakeError::ComposePanicked)?;
        let Composed { bytes, text, .. } = made.map_err(|error| self.compose_failure(error))?;
        let (key, second_key) = self.draft.job_keys(&self.route.name, to);
        let job = Job {
            id,
            route: self.route.name.clone(),
            thread_id: Some(self.draft.thread_id.clone()),
            product_message_id: self.draft.message_id.clone(),
            message_id,
            recipient: to.clone(),
            return_path: Some(return_path),
            subject: cut(&subject, SUBJECT_BYTES_MAX).to_owned(),
            key,
            second_key,
            content: self.content,
            made_at: self.now,
            ends_at: self.now.plus(self.intake.settings.age_max),
        };
        // The thread may have changed while the mail was composed.
        let key = ThreadKey::of(&self.draft.thread_id);
        let _thread = self.intake.store.lock_thread(key).await?;
        let facts = self.facts(&job, &text, minted).await?;
        match self.intake.store.enqueue(job, bytes, facts).await? {
            EnqueueResult::New => Ok(id),
            EnqueueResult::Exists { id, same: true } => Ok(id),
            EnqueueResult::Exists { id, same: false } => Err(IntakeError::Conflict(id)),
        }
    }

    async fn outgoing_mail(&self, id: JobId, to: &Address) -> Result<OutgoingMail, IntakeError> {
        let (draft, route, settings) = (&*self.draft, self.route, &self.intake.settings);
        let (keys, domain) = (&route.keys, &route.domains[0]);
        let thread = |error: &dyn std::fmt::Display| IntakeError::Invalid {
            part: DraftPart::ThreadId,
            why: format!("no reply address can be made for it: {error}"),
        };
        let reply_to =
            keys.reply_address(route.format, domain, &draft.thread_id, Some(to), self.now);
        let return_path = job_id::return_path(keys, domain, id);
        let locale = draft
            .locale
            .as_deref()
            .map_or_else(Locale::default, Locale::of);
        let copied = draft.cc.iter().map(|address| HeaderMailbox {
            name: String::new(),
            address: address.clone(),
        });
        Ok(OutgoingMail {
            from: settings.from.clone(),
            sender_name: draft.sender_name.clone().unwrap_or_default(),
            product_name: settings.product_name.clone(),
            to: HeaderMailbox {
                name: draft.recipient_name.clone().unwrap_or_default(),
                address: self.recipient.clone(),
            },
            cc: copied.collect(),
            reply_to: reply_to.map_err(|error| thread(&error))?,
            subject: self.subject(),
            text: draft.text.clone(),
            html: draft.html.clone(),
            history: self.history(to).await?,
            marker: route.marker.clone(),
            attachments: draft.files.iter().map(attachment).collect(),
            in_reply_to: self.in_reply_to(),
            references: self.references(),
            message_id: self.message_id.clone(),
            return_path: return_path.map_err(|error| thread(&error))?,
            date: self.now,
            list_id: settings.list_id.clone(),
            list_unsubscribe: settings.list_unsubscribe.as_ref().map(|form| form.of(id)),
            is_automatic: draft.is_automatic,
            loop_mark: route.loop_mark.clone(),
            locale,
            reply_domains: self.reply_domains(),
            fields: self.fields()?,
        })
    }

    fn reply_domains(&self) -> Vec<Domain> {
        let routes = self.intake.routes.iter();
        routes.flat_map(|route| route.domains.clone()).collect()
    }

    fn fields(&self) -> Result<Vec<(HeaderName, HeaderText)>, IntakeError> {
        let unfit = |error: HeaderFieldError| IntakeError::Invalid {
            part: DraftPart::Headers,
            why: error.to_string(),
        };
        let fields = self.draft.headers.iter();
        fields
            .map(|(name, value)| {
                let name = HeaderName::parse(name).map_err(unfit)?;
                Ok((name, HeaderText::parse(value).map_err(unfit)?))
            })
            .collect()
    }

    fn subject(&self) -> String {
        let of_thread = self.mapping.as_ref();
        let of_thread =
            of_thread.map(|known| known.title.as_ref().unwrap_or(&known.subject).clone());
        let known = self.draft.subject.clone().or(of_thread);
        known
            .filter(|subject| !subject.is_empty())
            .unwrap_or_else(|| {
                let product = self.intake.settings.product_name.trim();
                let product = if product.is_empty() {
                    "Message"
                } else {
                    product
                };
                product.to_owned()
            })
    }

    /// The Message-ID of the newest mail of the thread. The product may not know a mail of a moment ago, so
    /// its value counts only if it is not known here.
    fn in_reply_to(&self) -> Option<String> {
        let mapping = self.mapping.as_ref();
        let ours = match mapping.map(|mapping| (mapping, self.own_position(mapping))) {
            Some((mapping, Some(own))) => mapping.references[..own].last().map(String::as_str),
            Some((mapping, None)) => mapping.last_message_id.as_deref(),
            None => None,
        };
        let told = self.draft.last_message_id.as_deref();
        let is_known = |id: &str| {
            mapping.is_some_and(|mapping| {
                mapping
                    .references
                    .iter()
                    .any(|known| bare_message_id(known) == bare_message_id(id))
            })
        };
        match (told, ours) {
            (Some(told), Some(ours)) if is_known(told) => Some(ours.to_owned()),
            (Some(told), _) => Some(told.to_owned()),
            (None, ours) => ours.map(str::to_owned),
        }
    }

    fn references(&self) -> Vec<String> {
        let Some(mapping) = &self.mapping else {
            return Vec::new();
        };
        let own = self.own_position(mapping);
        mapping.references[..own.unwrap_or(mapping.references.len())].to_vec()
    }

    /// The position of this mail in the thread, if another recipient received it before.
    fn own_position(&self, mapping: &Mapping) -> Option<usize> {
        let mut known = mapping.references.iter();
        known.position(|id| bare_message_id(id) == bare_message_id(&self.message_id))
    }

    fn conversation_key(&self, with: &Address) -> ConversationKey {
        ConversationKey {
            route: self.route.name.clone(),
            thread_id: self.draft.thread_id.clone(),
            with: with.folded(),
        }
    }

    /// The last messages between Postern and `to`, newest first. Messages of others in the thread are
    /// private to them.
    async fn history(&self, to: &Address) -> Result<Vec<compose::EarlierMessage>, StoreError> {
        let (store, talk) = (&self.intake.store, self.conversation_key(to));
        let mut said: Vec<LastMessage> = Vec::new();
        for by_us in [false, true] {
            match store.last_message(&talk, by_us).await {
                Ok(message) => said.extend(message),
                // A damaged message is left out, because the mail is complete without quotes.
                Err(StoreError::Damaged) => {}
                Err(error) => return Err(error),
            }
        }
        said.sort_by_key(|said| std::cmp::Reverse(said.at));
        let messages = said.into_iter();
        Ok(messages
            .map(|said| compose::EarlierMessage {
                name: said.name.unwrap_or_default(),
                at: said.at,
                text: said.text,
            })
            .collect())
    }

    /// A fact that stores a token that does not contain the thread's id, or whose case mail systems may
    /// change.
    fn issued_token_fact(&self, reply_to: &Address) -> Option<Fact> {
        let thread = &self.draft.thread_id;
        let is_uuid = Uuid::try_parse(thread).is_ok_and(|uuid| uuid.to_string() == *thread);
        if is_uuid && self.route.format == Format::V2 {
            return None;
        }
        let claims = self.route.keys.verify(reply_to, self.now).ok()?;
        Some(Fact::TokenIssued {
            token: claims.digest,
            thread_id: thread.clone(),
            at: self.now,
        })
    }

    async fn facts(
        &self,
        job: &Job,
        text: &str,
        minted: Option<Fact>,
    ) -> Result<Vec<Fact>, StoreError> {
        let (draft, now) = (&*self.draft, self.now);
        let own_id = bare_message_id(&job.message_id).to_owned();
        let mut facts: Vec<Fact> = minted.into_iter().collect();
        facts.push(Fact::Linked {
            route: self.route.name.clone(),
            message_id: own_id.clone(),
            thread_id: draft.thread_id.clone(),
            sent_by_us: true,
            at: now,
        });
        if job.recipient == self.recipient {
            facts.push(Fact::Mapped(self.updated_mapping(own_id).await?));
        }
        facts.push(Fact::MessageRecorded {
            conversation: self.conversation_key(&job.recipient),
            message: LastMessage {
                by_us: true,
                name: draft.sender_name.clone(),
                at: now,
                text: cut(text, LastMessage::TEXT_BYTES_MAX).to_owned(),
            },
        });
        let told = json!({
            "jobId": job.id.to_string(),
            "threadId": draft.thread_id,
            "messageId": draft.message_id,
            "emailMessageId": bare_message_id(&job.message_id),
            "recipient": job.recipient.to_string(),
        });
        if let serde_json::Value::Object(data) = told {
            facts.push(Fact::Happened(Event {
                kind: EventKind::OutboundQueued,
                at: now,
                thread_id: Some(draft.thread_id.clone()),
                data,
            }));
        }
        Ok(facts)
    }

    /// The mapping of the thread after this mail. For an unknown thread the recipient becomes the
    /// participant.
    async fn updated_mapping(&self, own_id: String) -> Result<Mapping, StoreError> {
        let key = ThreadKey::of(&self.draft.thread_id);
        let known = self.intake.store.thread(&self.route.name, key).await?;
        let mut mapping = known.unwrap_or_else(|| {
            let participant = Some(self.recipient.clone());
            let thread_id = &self.draft.thread_id;
            Mapping::new(&self.route.name, thread_id, participant, self.now)
        });
        mapping.adopt_subject(&Subject::of(&self.subject()));
        let answered = self.in_reply_to();
        for id in answered
            .iter()
            .map(|id| bare_message_id(id))
            .chain([own_id.as_str()])
        {
            mapping.add_reference(id);
        }
        mapping.last_message_id = Some(own_id);
        mapping.changed_at = self.now;
        Ok(mapping)
    }

    /// Maps an invalid field to the part of the draft, or to an internal error.
    fn compose_failure(&self, error: ComposeError) -> IntakeError {
        let part = match error.field() {
            Some("to") => DraftPart::Recipient,
            Some("cc") => DraftPart::Cc,
            Some("text") => DraftPart::Text,
            Some("html") => DraftPart::Html,
            Some("subject") => DraftPart::Subject,
            Some("sender_name") => DraftPart::SenderName,
            Some("enclosures") => DraftPart::Attachments,
            Some("fields") => DraftPart::Headers,
            _ => return IntakeError::Compose(error),
        };
        IntakeError::Invalid {
            part,
            why: error.to_string(),
        }
    }
}

/// A random job id.
pub(super) fn random_job_id() -> Result<JobId, IntakeError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| IntakeError::Random)?;
    Ok(JobId(bytes))
}

fn attachment(file: &DraftFile) -> OutgoingAttachment {
    OutgoingAttachment {
        filename: file.filename.clone(),
        content_type: file.content_type.clone(),
        bytes: Bytes::clone(&file.bytes),
    }
}
