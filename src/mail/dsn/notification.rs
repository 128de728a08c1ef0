//! Owns the reports that Amazon SES sends as JSON through SNS, by mail.

use serde_json::Value;

use super::reason::FailureReason;
use super::status::EnhancedStatus;
use super::{
    DIAGNOSTIC_BYTES_MAX, DsnAction, Feedback, MTA_BYTES_MAX, OriginalMail, RECIPIENTS_MAX, Report,
    ReportForm, ReportedRecipient, reason, tidy,
};
use crate::mail::address::Address;
use crate::mail::outline::Outline;
use crate::mail::text::bare_message_id;

/// Reads such a report. Other text may follow the JSON.
pub(super) fn read(mail: &Outline<'_>) -> Option<Report> {
    if !mail.has("x-amz-sns-message-id") {
        return None;
    }
    let text = mail.texts("text/plain").next()?;
    let body = &text[text.find('{')?..];
    let parsed = serde_json::Deserializer::from_str(body)
        .into_iter::<Value>()
        .next()?
        .ok()?;
    // Without raw delivery the notification is a string within another object.
    let inner = parsed.get("Message").and_then(Value::as_str);
    let value = match inner {
        Some(inner) => serde_json::from_str(inner).ok()?,
        None => parsed,
    };
    let kind = text_at(&value, "notificationType").or_else(|| text_at(&value, "eventType"))?;
    let (form, list, action) = match kind {
        "Bounce" => (ReportForm::Delivery, "bouncedRecipients", DsnAction::Failed),
        "Delivery" => (ReportForm::Delivery, "recipients", DsnAction::Delivered),
        "Complaint" => (
            ReportForm::Feedback,
            "complainedRecipients",
            DsnAction::Delivered,
        ),
        "DeliveryDelay" => (
            ReportForm::Delivery,
            "delayedRecipients",
            DsnAction::Delayed,
        ),
        _ => return None,
    };
    let key = format!("{}{}", kind[..1].to_lowercase(), &kind[1..]);
    let event = value.get(&key)?;
    let recipients = event.get(list).and_then(Value::as_array);
    let recipients = recipients.into_iter().flatten().take(RECIPIENTS_MAX);
    let mut original = OriginalMail::of(mail);
    let sent = value.get("mail");
    let headers = sent.and_then(|m| m.get("commonHeaders"));
    let id = headers
        .and_then(|h| text_at(h, "messageId"))
        .or_else(|| sent.and_then(|m| text_at(m, "messageId")));
    original.message_id = id.and_then(|id| tidy(bare_message_id(id), 998));
    Some(Report {
        form,
        recipients: recipients
            .filter_map(|one| recipient(one, event, action))
            .collect(),
        reporting_mta: text_at(event, "reportingMTA")
            .and_then(|text| tidy(text.rsplit(';').next()?, MTA_BYTES_MAX)),
        original,
        feedback: (form == ReportForm::Feedback).then(|| Feedback {
            kind: text_at(event, "complaintFeedbackType")
                .unwrap_or("abuse")
                .to_ascii_lowercase(),
            user_agent: text_at(event, "userAgent").and_then(|text| tidy(text, MTA_BYTES_MAX)),
            source_ip: None,
            reported_domain: None,
        }),
        disposition: None,
    })
}

fn recipient(one: &Value, event: &Value, action: DsnAction) -> Option<ReportedRecipient> {
    let address = one.as_str().or_else(|| text_at(one, "emailAddress"))?;
    let diagnostic = text_at(one, "diagnosticCode").or_else(|| text_at(event, "smtpResponse"));
    let diagnostic = diagnostic.and_then(|text| tidy(text, DIAGNOSTIC_BYTES_MAX));
    let words = diagnostic.as_deref().unwrap_or_default();
    let given = text_at(one, "status").and_then(EnhancedStatus::parse);
    let transient = text_at(event, "bounceType") == Some("Transient");
    let derived = reason::status(words, action).map(|status| match transient {
        true if status.is_vague() => status.in_class(4),
        _ => status,
    });
    Some(ReportedRecipient {
        address: Address::parse(address).ok()?,
        original: None,
        action: text_at(one, "action")
            .and_then(DsnAction::parse)
            .unwrap_or(action),
        status: given.or(derived),
        derived: given.is_none(),
        reason: FailureReason::of(given, words),
        diagnostic,
        remote_mta: text_at(event, "remoteMtaIp").and_then(|text| tidy(text, MTA_BYTES_MAX)),
    })
}

fn text_at<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}
