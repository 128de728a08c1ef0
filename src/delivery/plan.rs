//! Owns the plan for one mail and the reasons for it, as a pure function of the mail and the known facts.
//!
//! Does no I/O, reads no clock and does not execute the plan: delivery does, and `mail explain` shows the
//! same plan.

use std::time::Duration;

use super::loop_detector::robot_signs;
use super::parsed_mail::ParsedMail;
use super::policy::{Disposition, KindAction, KindActions};
use super::route::DeliveryRoute;
use super::sorting::{MailboxAssignment, ThreadHistory, assign};
use crate::auth::{HoldReason, Identity, PolicyDecision, identity};
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::envelope::{Recipient, RecipientTarget};
use crate::mail::kind::MailKind;
use crate::mail::mailbox::SortingFacts;
use crate::mail::thread::{ThreadCandidate, ThreadDecision, ThreadFacts, ThreadReason, decide};
use crate::mail::token::{Claims, ThreadKey};
use crate::mail::verdict::{Verdict, VerdictSource};
use crate::store::{ConversationKey, DeliveryId, DeliveryStep, LastMessage, Mapping, PlannedPost};

/// The rule by which a mail that the product already has is dropped.
pub const DUPLICATE_RULE: &str = "duplicate";
/// The rule by which machines' mail above the limit is not posted.
pub const LOOP_RULE: &str = "loop_breaker";
/// The rule by which mail to a return path that is not a notice is not posted.
pub const BOUNCE_ADDRESS_RULE: &str = "bounce_address";

/// The circumstances of one mail for one recipient.
#[derive(Clone, Copy)]
pub struct Planner<'a> {
    /// The route of the recipient.
    pub route: &'a DeliveryRoute,
    /// The recipient.
    pub recipient: &'a Recipient,
    /// The results of the sender checks.
    pub verdict: &'a Verdict,
    /// Steps that earlier attempts have taken.
    pub steps: &'a [DeliveryStep],
    /// Time of receipt.
    pub received_at: Timestamp,
    /// The current time.
    pub now: Timestamp,
    /// The time since its last change in which a thread is found by sender and subject.
    pub subject_window: Duration,
}

/// The facts that a plan depends on besides the mail itself.
#[derive(Clone, Debug, Default)]
pub struct KnownFacts {
    /// Another delivery of the same mail that the product already has.
    pub duplicate_of: Option<DeliveryId>,
    /// The threads to which the token or the header of the mail leads.
    pub candidates: Vec<KnownCandidate>,
    /// The mapping of the thread that an earlier attempt has used.
    pub begun: Option<Mapping>,
    /// True if the recipient's token names a thread that this store does not know.
    pub unknown_token: bool,
    /// The thread id that is recorded for the recipient's token.
    pub issued: Option<String>,
    /// Our last message in a conversation, if it was read together with the facts.
    pub last_message: Option<(ConversationKey, Option<LastMessage>)>,
}

/// A candidate for the thread of a mail, with its mapping if there is one.
#[derive(Clone, Debug)]
pub struct KnownCandidate {
    /// The candidate.
    pub candidate: ThreadCandidate,
    /// The mapping of its thread.
    pub mapping: Option<Mapping>,
}

/// The plan for one mail.
#[derive(Clone, Debug)]
pub enum Plan {
    /// The mail is a notice about mail of ours: it is recorded with its job, and settled by its
    /// disposition, but never posted.
    Notice,
    /// The mail is dropped by this rule.
    Drop(&'static str),
    /// The mail is parked for a person.
    Park(ParkReason),
    /// The mail is posted.
    Post(Box<PostPlan>),
}

/// The reason why a mail is parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkReason {
    /// The name of the rule in metrics, if a rule or a policy holds the mail.
    pub rule: Option<&'static str>,
    /// The reason for a person.
    pub text: String,
}

/// The content of the posted message and its checks.
#[derive(Clone, Debug)]
pub struct PostPlan {
    /// The content of the calls besides the mail itself.
    pub post: PlannedPost,
    /// The identity of the author.
    pub identity: Identity,
    /// The check for loops that must pass first, if the mail could belong to one.
    pub loop_check: Option<LoopCheck>,
}

/// A check of a mail by the loop detector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopCheck {
    /// The conversations that are counted separately: a thread or a subject, and for a person's mail each
    /// with a sign of a robot.
    pub conversations: Vec<String>,
    /// Time of the message of ours that a repeated text answers; `None` counts each mail.
    pub answers: Option<Timestamp>,
    /// True if a mail above the limit is parked, false if it is dropped. People write to lists, and repeat
    /// themselves: their mail is not dropped.
    pub parks: bool,
}

/// The plan among the steps of a delivery, if an attempt has recorded one.
pub fn planned_post(steps: &[DeliveryStep]) -> Option<&PlannedPost> {
    steps.iter().find_map(|step| match step {
        DeliveryStep::Planned(post) => Some(&**post),
        _ => None,
    })
}

impl ParkReason {
    /// The mail is held by a rule of this name.
    pub fn rule(rule: &'static str) -> Self {
        Self {
            rule: Some(rule),
            text: format!("held by rule: {rule}"),
        }
    }
}

impl Planner<'_> {
    /// The plan for mail that concerns mail of ours: a notice, or other mail to a return path. `None` for
    /// any other mail. No facts are needed.
    pub fn plan_return(&self, mail: &ParsedMail) -> Option<Plan> {
        if matches!(mail.kind, MailKind::Bounce | MailKind::DelayNotice) {
            return Some(Plan::Notice);
        }
        if !matches!(self.recipient.target, RecipientTarget::Return(_)) {
            return None;
        }
        if !mail.kind.is_person() {
            return Some(Plan::Drop(BOUNCE_ADDRESS_RULE));
        }
        // Some mail programs send answers to the return path.
        (!self.is_approved()).then(|| {
            Plan::Park(ParkReason {
                rule: Some(BOUNCE_ADDRESS_RULE),
                text: "a person wrote to a bounce address".to_owned(),
            })
        })
    }

    /// The plan for a mail whose reply is extracted.
    pub fn plan(&self, mail: &ParsedMail, known: &KnownFacts) -> Plan {
        if let Some(plan) = self.plan_return(mail) {
            return plan;
        }
        // A delivery that has begun is completed, whatever the state of a copy.
        if known.duplicate_of.is_some() && self.begun_thread().is_none() {
            return Plan::Drop(DUPLICATE_RULE);
        }
        if let Some(post) = self.planned_post() {
            let identity = Identity::of_name(&post.identity).unwrap_or(Identity::Unverified);
            return Plan::Post(Box::new(PostPlan {
                post: post.clone(),
                identity,
                loop_check: None,
            }));
        }
        let kind = match mail.disposition {
            Disposition::Post(kind) => kind,
            Disposition::Drop(rule) => return Plan::Drop(rule),
            Disposition::Hold(_)
                if self.is_approved()
                    && KindActions::is_allowed(mail.kind, KindAction::PostTyped) =>
            {
                mail.kind
            }
            Disposition::Hold(rule) => return Plan::Park(ParkReason::rule(rule)),
        };
        let (post, identity) = match self.plan_post(mail, kind, known) {
            Ok(planned) => planned,
            Err(text) => return Plan::Park(ParkReason { rule: None, text }),
        };
        if let Some(hold) = self.sender_hold(identity) {
            return Plan::Park(ParkReason {
                rule: Some(hold.name()),
                text: hold.reason(),
            });
        }
        let loop_check = self.loop_check(mail, &post);
        Plan::Post(Box::new(PostPlan {
            post,
            identity,
            loop_check,
        }))
    }

    /// The thread of a mail whose reply need not be extracted yet, and its mapping.
    pub fn current_thread<'k>(
        &self,
        mail: &ParsedMail,
        known: &'k KnownFacts,
    ) -> Option<(String, Option<&'k Mapping>)> {
        let (thread, _) = self.decide_thread(mail, known).ok()?;
        let thread = thread?;
        let mapping = known.mapping(&thread);
        Some((thread, mapping))
    }

    /// The thread that an earlier attempt has created or posted to.
    pub fn begun_thread(&self) -> Option<&str> {
        self.steps.iter().find_map(|step| match step {
            DeliveryStep::ThreadMade { thread_id }
            | DeliveryStep::MessagePosted { thread_id, .. } => Some(thread_id.as_str()),
            DeliveryStep::Approved | DeliveryStep::Planned(_) => None,
        })
    }

    /// The claims of the recipient's token.
    pub fn token_claims(&self) -> Option<&Claims> {
        match &self.recipient.target {
            RecipientTarget::Thread(claims) => Some(claims),
            RecipientTarget::Mailbox(_) | RecipientTarget::Return(_) => None,
        }
    }

    /// True if a person released the mail from parking.
    fn is_approved(&self) -> bool {
        self.steps.contains(&DeliveryStep::Approved)
    }

    /// The plan that an earlier attempt has recorded.
    pub fn planned_post(&self) -> Option<&PlannedPost> {
        planned_post(self.steps)
    }

    fn plan_post(
        &self,
        mail: &ParsedMail,
        kind: MailKind,
        known: &KnownFacts,
    ) -> Result<(PlannedPost, Identity), String> {
        let (thread, reason) = self.decide_thread(mail, known)?;
        let mapping = thread.as_deref().and_then(|id| known.mapping(id));
        let who = self.identity_in(mail, mapping);
        let assigned = self.assignment_in(mail, thread.as_deref(), mapping);
        let post = PlannedPost {
            thread_id: thread,
            reason,
            kind,
            identity: who.as_str().to_owned(),
            mailbox: assigned.mailbox,
            priority: assigned.priority,
            rule: assigned.rule,
            introduces_author: self.may_introduce_author(mail),
            known_images: mapping
                .map(|known| known.images.clone())
                .unwrap_or_default(),
            quoted: mail.quoted_message.clone(),
            links: None,
            skipped_files: None,
            reply_marker: Some(self.route.reply_marker.clone()),
        };
        Ok((post, who))
    }

    /// The identity of the author in the thread of the mail.
    pub fn identity(&self, mail: &ParsedMail, known: &KnownFacts) -> Identity {
        let thread = self.current_thread(mail, known);
        self.identity_in(mail, thread.and_then(|(_, mapping)| mapping))
    }

    fn identity_in(&self, mail: &ParsedMail, mapping: Option<&Mapping>) -> Identity {
        let author = mail.author.as_ref();
        let takes_part = author.is_some_and(|author| self.is_participant(author, mapping));
        let has_token = self.token_claims().is_some();
        identity(self.verdict, author, takes_part, has_token)
    }

    /// The mailbox and the priority of the mail, also if it would not be posted.
    pub fn assignment(&self, mail: &ParsedMail, known: &KnownFacts) -> MailboxAssignment {
        match self.current_thread(mail, known) {
            Some((thread, mapping)) => self.assignment_in(mail, Some(&thread), mapping),
            None => self.assignment_in(mail, None, None),
        }
    }

    fn assignment_in(
        &self,
        mail: &ParsedMail,
        thread: Option<&str>,
        mapping: Option<&Mapping>,
    ) -> MailboxAssignment {
        // A thread that this mail itself began has no history.
        let is_begun = self.begun_thread().is_some();
        let is_old = thread.is_some() && (mapping.is_some() || !is_begun);
        let history = is_old.then(|| ThreadHistory::of(mapping));
        let is_verified = self.identity_in(mail, mapping) == Identity::Verified;
        self.assign_mailbox(mail, is_verified, history.as_ref())
    }

    /// The thread of a mail and the reason for it; `None` if the thread is to be created.
    ///
    /// # Errors
    /// The reason why a person must decide.
    pub fn decide_thread(
        &self,
        mail: &ParsedMail,
        known: &KnownFacts,
    ) -> Result<(Option<String>, ThreadReason), String> {
        if let Some(thread) = self.begun_thread() {
            return Ok((Some(thread.to_owned()), ThreadReason::None));
        }
        if let Some(thread) = self.planned_post().and_then(|post| post.thread_id.clone()) {
            return Ok((Some(thread), ThreadReason::None));
        }
        if known.unknown_token {
            return Err(UNKNOWN_TOKEN.to_owned());
        }
        let facts = ThreadFacts {
            author: mail.author.as_ref(),
            is_authenticated: self.verdict.is_aligned(),
            subject: &mail.normalised_subject,
            now: self.now,
            subject_window: self.subject_window,
        };
        let candidates: Vec<ThreadCandidate> = known
            .candidates
            .iter()
            .map(|known| known.candidate.clone())
            .collect();
        match decide(&facts, &candidates) {
            ThreadDecision::Existing { thread_id, reason } => Ok((Some(thread_id), reason)),
            ThreadDecision::New { reason } => Ok((None, reason)),
            ThreadDecision::Conflict { reason } => {
                Err(format!("more than one thread by {}", reason.as_str()))
            }
        }
    }

    fn assign_mailbox(
        &self,
        mail: &ParsedMail,
        verified: bool,
        history: Option<&ThreadHistory>,
    ) -> MailboxAssignment {
        let facts = SortingFacts {
            recipient: Some(&self.recipient.address),
            sender: mail.author.as_ref(),
            verified,
            kind: mail.kind,
            subject: &mail.subject,
            body: &mail.reply.text,
            mailbox: None,
            thread: None,
        };
        let named = match &self.recipient.target {
            RecipientTarget::Mailbox(name) => Some(name.as_str()),
            RecipientTarget::Thread(_) | RecipientTarget::Return(_) => None,
        };
        assign(&self.route.policy.rules, &facts, named, history)
    }

    /// True if the author is a participant of the thread: the token was issued for them, or they are its
    /// known participant. Without a token, an author begins a thread that has no known participant.
    fn is_participant(&self, author: &Address, mapping: Option<&Mapping>) -> bool {
        let claims = self.token_claims();
        if let Some(claims) = claims.filter(|claims| claims.participant.is_some()) {
            return self.route.keys.is_participant(claims, author);
        }
        let Some(mapping) = mapping else {
            return claims.is_none();
        };
        let known = mapping.participant.as_ref();
        known.is_some_and(|known| known.folded() == author.folded())
    }

    /// True if the author becomes the participant of a thread without one. The holder of an unbound token
    /// does so only if their domain vouches for the mail, or if no check was possible.
    fn may_introduce_author(&self, mail: &ParsedMail) -> bool {
        let Some(claims) = self.token_claims() else {
            return true;
        };
        if claims.participant.is_some() {
            let author = mail.author.as_ref();
            return author.is_some_and(|a| self.route.keys.is_participant(claims, a));
        }
        self.verdict.source == VerdictSource::Nobody || self.verdict.is_aligned()
    }

    /// The reason to hold the mail for its sender, unless a person has released it or an attempt has begun.
    /// Mail that could have been refused at the door is held, because no peer waits for a response any
    /// more.
    fn sender_hold(&self, identity: Identity) -> Option<HoldReason> {
        if !self.steps.is_empty() {
            return None;
        }
        match self.route.senders.decide(self.verdict, identity) {
            PolicyDecision::Accept => None,
            PolicyDecision::Hold(hold) => Some(hold),
            PolicyDecision::Refuse(refusal) => Some(HoldReason::from(refusal)),
        }
    }

    /// The check for loops: of machines' mail, and of people's mail with the signs of a robot. Mail that a
    /// person released, or that an attempt began, is not checked.
    fn loop_check(&self, mail: &ParsedMail, post: &PlannedPost) -> Option<LoopCheck> {
        if !self.steps.is_empty() {
            return None;
        }
        let thread = match &post.thread_id {
            Some(thread) => thread.clone(),
            None => format!("new {}", mail.normalised_subject),
        };
        let (mut conversations, mut answers) = (vec![thread.clone()], None);
        if mail.kind.is_person() {
            let sent_at = mail.quoted_message.as_ref()?.at;
            // People send pictures one per mail, without words.
            let words = mail
                .files
                .listed
                .is_empty()
                .then_some(mail.reply.text.as_str());
            let signs = robot_signs(words, self.received_at.since(sent_at));
            conversations = signs.map(|sign| format!("{thread}\n{sign}")).collect();
            answers = Some(sent_at);
        }
        if conversations.is_empty() {
            return None;
        }
        Some(LoopCheck {
            conversations,
            answers,
            parks: mail.kind == MailKind::List || mail.kind.is_person(),
        })
    }
}

/// The reason to park mail for a token of another store.
const UNKNOWN_TOKEN: &str = "its token names a thread that this store does not know: the token was \
                             issued by another store, and only that one has the thread's id; \
                             `postern token mint --thread ID` makes the id known here";

impl KnownFacts {
    /// The mapping of this thread, if it is known.
    pub fn mapping(&self, thread_id: &str) -> Option<&Mapping> {
        let key = ThreadKey::of(thread_id);
        let of_candidates = self.candidates.iter().map(|known| known.mapping.as_ref());
        of_candidates
            .chain([self.begun.as_ref()])
            .flatten()
            .find(|mapping| ThreadKey::of(&mapping.thread_id) == key)
    }
}
