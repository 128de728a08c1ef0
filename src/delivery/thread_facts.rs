//! Owns the facts about a thread that are recorded when a mail is posted to it.
//!
//! Does not choose the thread, and does not call the product.

use super::attempt::DeliveryAttempt;
use super::parsed_mail::ParsedMail;
use crate::auth::Identity;
use crate::clock::Timestamp;
use crate::mail::envelope::RecipientTarget;
use crate::mail::subject::Subject;
use crate::mail::text::cut;
use crate::mail::token::ThreadKey;
use crate::store::{ConversationKey, Fact, LastMessage, Mapping, PlannedPost, StoreError};

/// The maximum length in bytes of a stored name.
const NAME_BYTES_MAX: usize = 256;
/// The maximum number of stored pictures of a thread, the newest ones: a signature has a few.
const IMAGES_MAX: usize = 16;

impl DeliveryAttempt<'_> {
    /// The facts about the thread and the mail in it. The caller holds the lock of the thread.
    ///
    /// # Errors
    /// The store gives no answer.
    pub(super) async fn thread_facts(
        &self,
        mail: &ParsedMail,
        post: &PlannedPost,
        thread: &str,
        now: Timestamp,
    ) -> Result<Vec<Fact>, StoreError> {
        let (store, route) = (&self.context.store, self.route.name.as_str());
        // The mapping is read again under the lock, because it may have changed since.
        let known = store.thread(route, ThreadKey::of(thread)).await?;
        let mut mapping = known.unwrap_or_else(|| Mapping {
            mailbox: Some(post.mailbox.clone()),
            priority: Some(post.priority),
            ..Mapping::new(route, thread, None, now)
        });
        if mapping.participant.is_none() && post.introduces_author {
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
                route: route.to_owned(),
                message_id: id.clone(),
                thread_id: thread.to_owned(),
                sent_by_us: false,
                at: now,
            });
        }
        facts.push(Fact::Mapped(mapping));
        facts.extend(self.issued_token_fact(thread));
        // Text that anyone could have written under this address is never quoted to it as its own.
        let may_be_quoted = mail.kind.is_person() && post.identity != Identity::Unverified.as_str();
        if let Some(author) = mail.author.as_ref().filter(|_| may_be_quoted) {
            facts.push(Fact::MessageRecorded {
                conversation: ConversationKey {
                    route: route.to_owned(),
                    thread_id: thread.to_owned(),
                    with: author.folded(),
                },
                message: last_message(mail, self.delivery.envelope.received_at),
            });
        }
        Ok(facts)
    }

    /// A fact that stores the digest of a complete v1 token: the same token may arrive in lower case later.
    fn issued_token_fact(&self, thread: &str) -> Option<Fact> {
        let RecipientTarget::Thread(claims) = &self.delivery.recipient.target else {
            return None;
        };
        if claims.thread_id.is_none() || self.is_token_recorded {
            return None;
        }
        Some(Fact::TokenIssued {
            token: claims.digest,
            thread_id: thread.to_owned(),
            at: claims.issued_at,
        })
    }
}

/// The text of a mail, as it is quoted below our next one.
fn last_message(mail: &ParsedMail, at: Timestamp) -> LastMessage {
    LastMessage {
        by_us: false,
        name: mail
            .sender_name
            .as_deref()
            .map(|name| cut(name, NAME_BYTES_MAX).to_owned()),
        at,
        text: cut(&mail.reply.text, LastMessage::TEXT_BYTES_MAX).to_owned(),
    }
}
