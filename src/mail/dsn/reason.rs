//! Owns the meaning of the words of a refusal, used where the status code is missing or vague.

use serde::Serialize;

use super::status::{EnhancedStatus, find_code, find_status, find_success};
use super::{DsnAction, ReportOutcome};
use crate::mail::text::cut;

/// Bytes of the words that are searched.
const WORDS_BYTES_MAX: usize = 4_096;

/// The reason why a mail was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// A complaint, which is not a failure.
    Complaint,
    /// The content was refused: spam, a virus, a forbidden attachment, a broken structure.
    Content,
    /// The mail was retried until it expired.
    Expired,
    /// The domain does not exist or accepts no mail.
    HostUnknown,
    /// The mail was in a loop.
    Loop,
    /// The mailbox is disabled.
    MailboxDisabled,
    /// The mailbox is full.
    MailboxFull,
    /// The person has moved.
    Moved,
    /// The host cannot be reached.
    Network,
    /// The sending host or domain was refused, for its reputation or because it is not authenticated.
    Policy,
    /// The sender exceeded a rate limit.
    RateLimited,
    /// The host does not accept mail for this domain.
    RelayDenied,
    /// The sender's address was refused.
    SenderRejected,
    /// The address is malformed.
    Syntax,
    /// The mail system has a fault.
    SystemTrouble,
    /// The mail is too large.
    TooBig,
    /// The words do not indicate a reason.
    Unknown,
    /// The mailbox does not exist.
    UserUnknown,
}

impl FailureReason {
    /// True if another mail to the same address would fail too, because the address itself is bad.
    pub const fn blames_address(self) -> bool {
        matches!(
            self,
            Self::UserUnknown
                | Self::HostUnknown
                | Self::MailboxDisabled
                | Self::Moved
                | Self::Syntax
        )
    }

    /// The reason from the words; else from the given status, else from a status within the words.
    pub(super) fn of(given: Option<EnhancedStatus>, words: &str) -> Self {
        let words = cut(words, WORDS_BYTES_MAX);
        let precise = given
            .filter(|status| !status.is_vague())
            .or_else(|| find_status(words));
        of_words(words, TABLE)
            .or_else(|| precise.and_then(of_status))
            .or_else(|| of_words(words, VAGUE_TABLE))
            .unwrap_or(Self::Unknown)
    }

    /// The default status of this reason (RFC 3463).
    const fn status(self, class: u8) -> EnhancedStatus {
        let (subject, detail) = match self {
            Self::UserUnknown => (1, 1),
            Self::HostUnknown => (1, 2),
            Self::Syntax => (1, 3),
            Self::Moved => (1, 6),
            Self::SenderRejected => (1, 8),
            Self::MailboxDisabled => (2, 1),
            Self::MailboxFull => (2, 2),
            Self::TooBig => (3, 4),
            Self::SystemTrouble => (3, 0),
            Self::Network => (4, 1),
            Self::Loop => (4, 6),
            Self::Expired => (4, 7),
            Self::Content => (6, 0),
            Self::Policy | Self::RelayDenied => (7, 1),
            Self::RateLimited => (7, 0),
            Self::Complaint | Self::Unknown => (0, 0),
        };
        EnhancedStatus::new(class, subject, detail)
    }
}

/// The status from the words: a status code in them, else their reason in the class of an SMTP code in
/// them, else in the class of the action.
pub(super) fn status(words: &str, action: DsnAction) -> Option<EnhancedStatus> {
    let words = cut(words, WORDS_BYTES_MAX);
    if action.outcome() == ReportOutcome::Delivered {
        return find_success(words);
    }
    let found = find_status(words);
    if let Some(status) = found.filter(|status| !status.is_vague()) {
        return Some(status);
    }
    let code_class = find_code(words).map(|code| if code < 500 { 4 } else { 5 });
    let class = match (action, found.map(EnhancedStatus::class).or(code_class)) {
        (DsnAction::Failed, Some(class)) => class,
        (DsnAction::Failed, None) => 5,
        _ => 4,
    };
    let reason = of_words(words, TABLE).or_else(|| of_words(words, VAGUE_TABLE));
    Some(reason.unwrap_or(FailureReason::Unknown).status(class))
}

fn of_status(status: EnhancedStatus) -> Option<FailureReason> {
    Some(match (status.subject(), status.detail()) {
        (1, 1 | 0) => FailureReason::UserUnknown,
        (1, 2 | 10) | (4, 4) => FailureReason::HostUnknown,
        (1, 3) => FailureReason::Syntax,
        (1, 6) => FailureReason::Moved,
        (1, 7 | 8) => FailureReason::SenderRejected,
        (2, 1) => FailureReason::MailboxDisabled,
        (2, 2) => FailureReason::MailboxFull,
        (2, 3) | (3, 4) => FailureReason::TooBig,
        (3, _) => FailureReason::SystemTrouble,
        (4, 6) => FailureReason::Loop,
        (4, 7) => FailureReason::Expired,
        (4, _) => FailureReason::Network,
        (6, _) => FailureReason::Content,
        (7, _) => FailureReason::Policy,
        _ => return None,
    })
}

fn of_words(words: &str, table: &[(FailureReason, &[&str])]) -> Option<FailureReason> {
    let words = words.to_lowercase();
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let row = table
        .iter()
        .find(|(_, phrases)| phrases.iter().any(|phrase| words.contains(phrase)));
    row.map(|(reason, _)| *reason)
}

/// Phrases of mail systems, lower-cased. The first line that matches decides, so precise phrases stand
/// above ambiguous ones.
#[rustfmt::skip]
const TABLE: &[(FailureReason, &[&str])] = &[
    (FailureReason::MailboxFull, &[
        "mailbox full", "mailbox is full", "quota exceeded", "over quota", "overquota",
        "out of storage", "exceeded storage", "exceeds storage", "exceeded their quota",
        "disk quota", "not enough storage", "mailbox size limit exceeded", "mailbox limit exceeded",
        "exceeds allowed size", "inbox is full", "full mailbox", "mailbox exceeded",
        "mailbox exceeds", "recipient's mailbox exceeded", "quota violation",
        "insufficient disk space", "exceeded mailbox", "mail quota", "mailfolder is full",
        "maildir over", "over the allowed quota", "boite pleine", "boîte pleine",
        "user is overquota", "quota exceed", "exceeded the local limit", "account is over",
        "storage quota", "exceeded the space", "exceeded the quota", "over the maximum allowed",
        "resources.storage", "message size exceeds remaining quota",
    ]),
    (FailureReason::MailboxDisabled, &[
        "mailbox disabled", "account disabled", "account is disabled", "account has been disabled",
        "mailbox unavailable or access denied", "account is suspended",
        "account has been suspended", "deactivated", "is locked", "account expired",
        "account is not active", "account is blocked", "disabled user", "no longer active",
        "recipient account is blocked", "disabled mailbox", "not accepting messages",
        "not accepting mail", "has been discontinued", "dormant",
    ]),
    (FailureReason::Moved, &[
        "has moved", "user moved", "has been replaced by", "address has changed", "new address",
    ]),
    (FailureReason::SenderRejected, &[
        "sender address rejected", "domain of sender address", "sender domain", "sender rejected",
        "invalid sender", "unroutable sender", "sender verify failed", "domain is invalid",
        "bad sender", "envelope sender", "sender unknown", "sender not authorized",
        "you are not allowed to send", "sender denied", "not authorized to send",
    ]),
    (FailureReason::TooBig, &[
        "too big", "too large", "size limit", "maximum message size", "exceeds maximum size",
        "exceeds fixed", "message size exceeds", "exceeds size", "exceeded max message size",
        "message length exceeds", "too many bytes", "maximum size", "exceeds the maximum",
    ]),
    (FailureReason::HostUnknown, &[
        "host unknown", "unknown host", "host not found", "domain not found", "no such domain",
        "unrouteable", "unroutable address", "unrouteable mail domain", "couldn't find any host",
        "name service error", "name or service not known", "domain does not exist", "no mx",
        "null mx", "nullmx", "doesn't receive email", "does not accept mail", "no route to host",
        "bad destination system", "bad destination host", "domain couldn't be found",
        "illegal host/domain", "host or domain name not found", "dns error", "no valid hosts",
        "no mail hosts", "mx record found", "invalid domain", "nxdomain", "domain isn't in my list",
        "mx records point", "non-existent host", "not a valid domain", "no matches to nameserver",
        "dns query failed", "domain nonexistent", "unresolvable",
    ]),
    (FailureReason::Loop, &[
        "too many hops", "mail loop", "hop count exceeded", "routing loop", "loops back to myself",
        "loop detected", "looping", "too many received",
    ]),
    (FailureReason::RelayDenied, &[
        "relay access denied", "relaying denied", "relay denied", "not permitted to relay",
        "unable to relay", "relaying not", "relay not permitted", "no relay", "rcpthosts",
        "relaying prohibited", "we do not relay", "relaying is", "open relay",
    ]),
    (FailureReason::Syntax, &[
        "syntax error", "malformed", "bad address syntax", "illegal address", "invalid characters",
        "address syntax", "parse error",
    ]),
    (FailureReason::UserUnknown, &[
        "user unknown", "recipient address rejected: access denied", "unknown user", "no such user",
        "user not found", "no such recipient", "recipient unknown", "unknown recipient",
        "recipient not found", "recipnotfound", "does not exist", "doesn't exist", "not exist",
        "no mailbox here by that name", "no such mailbox", "mailbox not found", "no user here",
        "invalid recipient", "invalid mailbox", "unknown address", "address unknown",
        "address not found", "not listed in", "unknown local", "not a valid mailbox",
        "not a known user", "not our customer", "unrecognized recipient", "name is not recognized",
        "invalid address", "bad destination mailbox address", "no such person", "no account",
        "account not found", "user doesn't have", "user does not have", "doesn't have a",
        "unknown account", "unknown email", "undeliverable address", "no valid recipients",
        "mailbox does not", "invalid user", "unknown or illegal alias", "nosuchuser",
        "not found in", "undefined mail alias", "no such address", "invalid final delivery user",
        "address couldn't be found", "can't be found", "wasn't found", "is not a valid",
        "not known at this site", "unknown mailbox", "resolver.adr", "no existe",
        "usuario desconocido", "unbekannt", "existiert nicht", "n'existe pas", "adresse inconnue",
        "sconosciuto", "не существует", "不存在", "nobody here", "user not known",
    ]),
    (FailureReason::RateLimited, &[
        "rate limit", "recipients this hour", "frequency limited", "too many connections",
        "too many messages", "throttl", "rate that", "exceeded the rate", "sending rate",
        "too fast", "too much mail", "greylist", "graylist", "grey-list", "exceeded the limit",
        "deferred due to user complaints", "unusual rate", "temporarily deferred",
    ]),
    (FailureReason::Content, &[
        "spam", "virus", "malware", "content rejected", "content reject",
        "blocked because its content", "not rfc 5322 compliant", "rfc 2822", "rfc2822",
        "duplicate header", "junk mail", "unsolicited", "phishing", "dangerous", "infected",
        "message filtered", "message was filtered", "bulk email filter",
    ]),
    (FailureReason::Policy, &[
        "spf", "dkim", "dmarc", "blacklist", "blocklist", "black list", "block list", "denylist",
        "dnsbl", "rbl", "reputation", "poor reputation", "reverse dns", "ptr record",
        "unauthenticated", "not authenticated", "authentication required", "banned",
        "refused to talk", "administrative prohibition", "recipient preferences",
        "use the smtp server", "may not have permission", "sender verification",
    ]),
    (FailureReason::Expired, &[
        "giving up", "retry timeout exceeded", "delivery time expired", "timed out in queue",
        "undeliverable for", "failed 20 attempts", "message was not delivered within",
        "not delivered within", "queue timeout", "has been in the queue",
    ]),
    (FailureReason::Network, &[
        "connection timed out", "connection refused", "could not connect", "couldn't connect",
        "cannot connect", "unable to connect", "network is unreachable", "connection reset",
        "lost connection", "connection dropped", "socket error", "accept our requests to connect",
        "failed to connect", "unable to contact", "no answer from host", "lookup fail",
        "temporary lookup", "establish an smtp connection",
    ]),
    (
        FailureReason::SystemTrouble,
        &[
            "system error",
            "internal error",
            "server error",
            "insufficient system",
            "disk full",
            "system not accepting",
            "configuration error",
            "i/o error",
            "temporary local problem",
            "unknown mailer error",
            "local configuration",
            "program failure",
            "resources temporarily",
            "sequence of commands",
            "input/output error",
        ],
    ),];

/// Phrases that are less precise than a status code.
#[rustfmt::skip]
const VAGUE_TABLE: &[(FailureReason, &[&str])] = &[
    (FailureReason::MailboxFull, &[
        "temporarily limited",
    ]),
    (FailureReason::MailboxDisabled, &[
        "inactive", "is disabled", "not active", "suspended",
    ]),
    (FailureReason::HostUnknown, &[
        "domain is not", "recipient domain", "domain has no",
    ]),
    (FailureReason::UserUnknown, &[
        "recipient address rejected", "address rejected", "mailbox unavailable", "this user",
        "recipient is not", "address error", "rejected recipient", "recipient rejected",
        "not recognized", "may not exist", "mailbox currently not available",
    ]),
    (FailureReason::SenderRejected, &[
        "from address", "sender address is", "does not like sender",
    ]),
    (FailureReason::RateLimited, &[
        "too many", "try again later because",
    ]),
    (FailureReason::Content, &[
        "attachment", "prohibited", "ube", "suspicious", "message content", "blocked by our",
    ]),
    (FailureReason::Policy, &[
        "rejected", "denied", "not allowed", "policy", "blocked", "not accepted", "not permitted",
        "restricted", "tls", "not authorized", "unauthorized", "access denied",
    ]),
    (FailureReason::Expired, &[
        "expired", "too long", "attempts:", "retry time", "delivery attempts",
    ]),
    (FailureReason::Network, &[
        "timed out", "timeout", "tcp", "connect", "conversation with", "unreachable",
        "not reachable", "connection was", "ldap",
    ]),
    (
        FailureReason::SystemTrouble,
        &[
            "command failed",
            "temporary failure",
            "unable to deliver",
            "pipe to",
            "service unavailable",
            "local error",
            "no such file",
            "can't create",
        ],
    ),];
