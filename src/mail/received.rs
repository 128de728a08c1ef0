//! Owns the `Received` field that Postern adds on top of an accepted mail (RFC 5321 section 4.4).
//!
//! Does not add the field to the stored mail, which stays as it came; only copies that are handed on have
//! it.

use std::net::IpAddr;

use super::address::Domain;
use super::envelope::{Door, Envelope, RecipientTarget};

/// The number of characters of a peer's greeting that are repeated if it is not a domain.
const HELO_CHARS_MAX: usize = 64;
/// The number of characters of a queue id that are written.
const ID_CHARS_MAX: usize = 64;

/// One hop of a mail: its reception by this host.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// The envelope: peer, recipients and time.
    pub envelope: &'a Envelope,
    /// The name of this host.
    pub hostname: &'a str,
    /// The id of the mail in our queue.
    pub id: &'a str,
    /// True if the peer used EHLO, not HELO. LMTP is always extended.
    pub is_extended: bool,
}

impl Hop<'_> {
    /// The whole field, folded, with its line end.
    ///
    /// The field has a `for` clause only for a single recipient that is a mailbox: with several it would
    /// disclose one recipient to the others (RFC 5321 section 7.2), and a token is confidential.
    pub fn received(&self) -> String {
        let envelope = self.envelope;
        let mut field = format!("Received: from {}", self.peer());
        if let Some(tls) = &envelope.peer.tls {
            field.push_str(&format!("\r\n\t(using {})", comment_text(tls)));
        }
        field.push_str(&format!("\r\n\tby {}", self.host()));
        if let Some(protocol) = self.protocol() {
            field.push_str(&format!(" with {protocol}"));
        }
        let id: String = self
            .id
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
            .take(ID_CHARS_MAX)
            .collect();
        if !id.is_empty() {
            field.push_str(&format!(" id {id}"));
        }
        if let [only] = envelope.recipients.as_slice()
            && matches!(only.target, RecipientTarget::Mailbox(_))
            && (envelope.smtputf8 || !only.address.is_utf8())
        {
            field.push_str(&format!("\r\n\tfor <{}>", only.address));
        }
        field.push_str(&format!(";\r\n\t{}\r\n", envelope.received_at.to_rfc5322()));
        field
    }

    /// The registered name of the protocol (RFC 3848, RFC 6531 section 4.3); `None` for doors without one.
    pub fn protocol(&self) -> Option<&'static str> {
        let has_tls = self.envelope.peer.tls.is_some();
        match (self.envelope.peer.door, self.envelope.smtputf8, has_tls) {
            (Door::Lmtp, false, false) => Some("LMTP"),
            (Door::Lmtp, false, true) => Some("LMTPS"),
            (Door::Lmtp, true, false) => Some("UTF8LMTP"),
            (Door::Lmtp, true, true) => Some("UTF8LMTPS"),
            (Door::Smtp, true, false) => Some("UTF8SMTP"),
            (Door::Smtp, true, true) => Some("UTF8SMTPS"),
            (Door::Smtp, false, true) => Some("ESMTPS"),
            (Door::Smtp, false, false) if self.is_extended => Some("ESMTP"),
            (Door::Smtp, false, false) => Some("SMTP"),
            (Door::Imap | Door::Inject | Door::Webhook, _, _) => None,
        }
    }

    /// `helo ([ip])`, or `unknown ([ip] said "…")` if the peer's greeting is not a domain.
    fn peer(&self) -> String {
        let peer = &self.envelope.peer;
        let literal = match peer.ip {
            Some(IpAddr::V4(ip)) => format!("[{ip}]"),
            Some(IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
            None => String::new(),
        };
        if let Some(domain) = domain(&peer.helo) {
            return match literal.as_str() {
                "" => domain,
                literal => format!("{domain} ({literal})"),
            };
        }
        let said = comment_text(&peer.helo);
        match (literal.as_str(), said.as_str()) {
            ("", "") => "unknown".to_owned(),
            (literal, "") => format!("unknown ({literal})"),
            ("", said) => format!("unknown (said \"{said}\")"),
            (literal, said) => format!("unknown ({literal} said \"{said}\")"),
        }
    }

    fn host(&self) -> String {
        domain(self.hostname).unwrap_or_else(|| "localhost".to_owned())
    }
}

fn domain(text: &str) -> Option<String> {
    let domain = Domain::parse(text).ok()?.ascii();
    domain.is_ascii().then_some(domain)
}

/// Text that is safe in a comment (RFC 5322 section 3.2.2): printable ASCII without parentheses and
/// backslashes.
fn comment_text(text: &str) -> String {
    text.chars()
        .take(HELO_CHARS_MAX)
        .map(|c| match c {
            '(' | ')' | '\\' | '"' => '?',
            ' '..='~' => c,
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::address::Address;
    use crate::mail::envelope::{Peer, Recipient};
    use crate::mail::token::{Claims, ThreadKey};
    use crate::mail::view::HeaderView;

    fn envelope(door: Door, helo: &str) -> Envelope {
        Envelope {
            sender: None,
            sender_untold: false,
            recipients: vec![Recipient {
                address: Address::parse("support@us.example").unwrap(),
                route: "main".to_owned(),
                target: RecipientTarget::Mailbox("support".to_owned()),
            }],
            peer: Peer {
                door,
                ip: Some(IpAddr::from([192, 0, 2, 1])),
                helo: helo.to_owned(),
                tls: None,
            },
            received_at: Timestamp::from_secs(1_769_903_999),
            smtputf8: false,
            told: None,
            verdict: None,
        }
    }

    fn hop(envelope: &Envelope) -> Hop<'_> {
        Hop {
            envelope,
            hostname: "mx.us.example",
            id: "1042",
            is_extended: true,
        }
    }

    #[test]
    fn a_field_describes_the_hop() {
        let mut envelope = envelope(Door::Smtp, "Mail.Peer.example");
        assert_eq!(
            hop(&envelope).received(),
            "Received: from mail.peer.example ([192.0.2.1])\r\n\
             \tby mx.us.example with ESMTP id 1042\r\n\
             \tfor <support@us.example>;\r\n\
             \tSat, 31 Jan 2026 23:59:59 +0000\r\n"
        );
        envelope.peer.tls = Some("TLSv1.3 TLS_AES_128_GCM_SHA256".to_owned());
        envelope.peer.ip = "2001:db8::1".parse().ok();
        envelope.recipients.push(envelope.recipients[0].clone());
        assert_eq!(
            hop(&envelope).received(),
            "Received: from mail.peer.example ([IPv6:2001:db8::1])\r\n\
             \t(using TLSv1.3 TLS_AES_128_GCM_SHA256)\r\n\
             \tby mx.us.example with ESMTPS id 1042;\r\n\
             \tSat, 31 Jan 2026 23:59:59 +0000\r\n"
        );
    }

    #[test]
    fn protocols_have_their_registered_names() {
        use Door::{Imap, Lmtp, Smtp, Webhook};
        for (door, utf8, tls, is_extended, name) in [
            (Smtp, false, false, false, Some("SMTP")),
            (Smtp, false, false, true, Some("ESMTP")),
            (Smtp, false, true, true, Some("ESMTPS")),
            (Smtp, true, false, true, Some("UTF8SMTP")),
            (Smtp, true, true, true, Some("UTF8SMTPS")),
            (Lmtp, false, false, false, Some("LMTP")),
            (Lmtp, false, true, false, Some("LMTPS")),
            (Lmtp, true, false, false, Some("UTF8LMTP")),
            (Lmtp, true, true, false, Some("UTF8LMTPS")),
            (Webhook, false, false, false, None),
            (Imap, true, true, true, None),
        ] {
            let mut envelope = envelope(door, "peer.example");
            envelope.smtputf8 = utf8;
            envelope.peer.tls = tls.then(|| "TLSv1.3".to_owned());
            let hop = Hop {
                is_extended,
                ..hop(&envelope)
            };
            assert_eq!(hop.protocol(), name);
        }
    }

    #[test]
    fn a_token_is_not_written() {
        let mut envelope = envelope(Door::Smtp, "peer.example");
        envelope.recipients[0].address = Address::parse("reply+secret@us.example").unwrap();
        envelope.recipients[0].target = RecipientTarget::Thread(Claims {
            thread: ThreadKey::of("t"),
            thread_id: None,
            is_hash: false,
            issued_at: Timestamp::default(),
            participant: None,
            digest: [0; 16],
        });
        assert!(!hop(&envelope).received().contains("secret"));
    }

    proptest! {
        #[test]
        fn a_peers_greeting_stays_in_the_field(
            helo in "(\\PC|[\r\n\t\0()\"\\\\]){0,300}",
            id in "(\\PC|[\r\n;]){0,100}",
        ) {
            let envelope = envelope(Door::Smtp, &helo);
            let hop = Hop { id: &id, hostname: &helo, ..hop(&envelope) };
            let field = hop.received();
            prop_assert!(field.is_ascii());
            prop_assert!(field.lines().all(|line| line.len() < 998));
            prop_assert_eq!(field.matches("\r\n").count(), 4);
            prop_assert_eq!(field.matches("\r\n\t").count(), 3);
            prop_assert!(!field.replace("\r\n\t", "").trim_end().chars().any(char::is_control));
            let header = HeaderView::parse(format!("{field}Subject: x\r\n\r\n").as_bytes());
            prop_assert_eq!(header.fields().len(), 2);
        }
    }
}
