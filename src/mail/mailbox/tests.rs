use proptest::prelude::*;

use super::Mailbox::{Business, Dmca, Fans, General};
use super::*;

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn rules(text: &str) -> Rules {
    Rules::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A mail in a few words: recipient, sender, subject, body.
struct ShortMail(&'static str, &'static str, &'static str, &'static str);

impl ShortMail {
    fn chosen(&self, rules: &Rules) -> MailboxChoice {
        let (recipient, sender) = (address(self.0), address(self.1));
        rules.choose(&SortingFacts {
            recipient: Some(&recipient),
            sender: Some(&sender),
            verified: true,
            kind: MailKind::Person,
            subject: self.2,
            body: self.3,
            mailbox: None,
            thread: None,
        })
    }
}

const FAN: &str = "ann@mail.example";
const INBOX: &str = "hello-there@inbox.example";

/// Cases of the default rules: mailbox, rule, mail.
#[rustfmt::skip]
const MAILS: &[(Mailbox, &str, ShortMail)] = &[
    (Dmca, "dmca-address", ShortMail("dmca@inbox.example", FAN, "Hello", "You use my song.")),
    (Dmca, "dmca-address", ShortMail("Copyright@inbox.example", FAN, "Hello", "See attached.")),
    (Dmca, "dmca-address", ShortMail("legal+2026@inbox.example", FAN, "Hello", "See attached.")),
    (Dmca, "dmca-subject", ShortMail(INBOX, FAN, "DMCA Takedown Request", "…")),
    (Dmca, "dmca-subject", ShortMail(INBOX, FAN, "Notice of Copyright   Infringement", "…")),
    (Dmca, "dmca-subject", ShortMail(INBOX, FAN, "CEASE AND DESIST", "…")),
    (Dmca, "dmca-subject", ShortMail(INBOX, FAN, "Abmahnung wegen Urheberrechtsverletzung", "…")),
    (Dmca, "dmca-subject", ShortMail(INBOX, FAN, "Mise en demeure", "…")),
    (Dmca, "dmca-subject", ShortMail(INBOX, FAN, "御社による著作権侵害について", "…")),
    (Dmca, "dmca-subject", ShortMail(INBOX, FAN, "НАРУШЕНИЕ АВТОРСКИХ ПРАВ", "…")),
    (Dmca, "dmca-text", ShortMail(INBOX, FAN, "Your video", "I state under penalty of perjury that I own it.")),
    (Dmca, "dmca-text", ShortMail(INBOX, FAN, "Your video", "Notice under the Digital Millennium Copyright Act.")),
    (Dmca, "dmca-text", ShortMail(INBOX, FAN, "Your video", "It infringes our copyright.")),
    (Dmca, "dmca-text", ShortMail("business@inbox.example", FAN, "Your video", "This is a DMCA notice.")),
    (Business, "business-address", ShortMail("business@inbox.example", FAN, "Hi", "Call me.")),
    (Business, "business-address", ShortMail("press+spring@inbox.example", FAN, "Hi", "Call me.")),
    (Business, "business-address", ShortMail("booking@inbox.example", FAN, "Hi", "Are you free in May?")),
    (Business, "business-subject", ShortMail(INBOX, FAN, "Sponsorship for spring", "…")),
    (Business, "business-subject", ShortMail(INBOX, FAN, "Business inquiry", "…")),
    (Business, "business-subject", ShortMail(INBOX, FAN, "Invoice 2026-11", "…")),
    (Business, "business-subject", ShortMail(INBOX, FAN, "Interview request: The Daily", "…")),
    (Business, "business-subject", ShortMail(INBOX, FAN, "Kooperationsanfrage", "…")),
    (Business, "business-subject", ShortMail(INBOX, FAN, "Demande de partenariat", "…")),
    (Business, "business-subject", ShortMail(INBOX, FAN, "商务合作邀请", "…")),
    (Business, "business-text", ShortMail(INBOX, FAN, "Hello!", "Could you send your rates and a media kit?")),
    (Business, "business-text", ShortMail(INBOX, FAN, "Hello!", "I write on behalf of our client, a brand of tea.")),
    (Business, "business-text", ShortMail(INBOX, FAN, "Hello!", "We offer a paid partnership.")),
    (General, "general-address", ShortMail("contact@inbox.example", FAN, "Hi", "Where do you live?")),
    (General, "general-address", ShortMail("info@inbox.example", FAN, "Hi", "Love it")),
    (General, "support-words", ShortMail(INBOX, FAN, "Refund for my order", "It never came.")),
    (General, "support-words", ShortMail(INBOX, FAN, "Please delete my account", "Thanks")),
    (Fans, "fans", ShortMail(INBOX, FAN, "I love your work", "You are the best!")),
    (Fans, "fans", ShortMail("fans@inbox.example", FAN, "Hi", "Greetings from Oslo")),
    (Fans, "fans", ShortMail(INBOX, FAN, "", "")),
    // Words that only resemble the words of a rule.
    (Fans, "fans", ShortMail(INBOX, FAN, "My business trip", "I heard your song on a business trip.")),
    (Fans, "fans", ShortMail(INBOX, FAN, "Pressing question", "Who drew the press in episode 3?")),
    (Fans, "fans", ShortMail(INBOX, FAN, "Taking down notes", "I take down every word you say.")),
    (Fans, "fans", ShortMail(INBOX, FAN, "Contractor here", "I build houses to your music.")),
    (Fans, "fans", ShortMail(INBOX, FAN, "Question", "Is the copyright year on the cover right?")),
    (Fans, "fans", ShortMail(INBOX, FAN, "Collaboration with Bo", "Your collaboration with Bo was lovely.")),
    (Fans, "fans", ShortMail(INBOX, FAN, "ファンです", "いつも応援しています。")),
    (Fans, "fans", ShortMail("reply+abc@inbox.example", FAN, "Re: hello", "Thank you!")),
];

#[test]
fn shipped_rules_sort_mail() {
    let rules = Rules::shipped().unwrap_or_else(|error| panic!("{error}"));
    for (mailbox, rule, mail) in MAILS {
        let choice = mail.chosen(&rules);
        let found = (choice.mailbox, choice.rule.as_deref());
        assert_eq!(
            found,
            (*mailbox, Some(*rule)),
            "{}: {}: {}",
            mail.0,
            mail.2,
            mail.3
        );
    }
}

#[test]
fn fan_mail_is_standard_and_business_comes_first() {
    let rules = Rules::shipped().unwrap();
    assert_eq!(
        ShortMail(INBOX, FAN, "Hi", "Hi").chosen(&rules).priority,
        Priority::Standard
    );
    assert_eq!(
        ShortMail(INBOX, FAN, "Sponsorship", "Hi")
            .chosen(&rules)
            .priority,
        Priority::Priority
    );
}

#[test]
fn a_conversation_keeps_its_place() {
    let rules = Rules::shipped().unwrap();
    let sender = address(FAN);
    let mut facts = SortingFacts {
        recipient: None,
        sender: Some(&sender),
        verified: true,
        kind: MailKind::Person,
        subject: "Re: your sponsorship",
        body: "Yes, please",
        mailbox: None,
        thread: Some(KnownThread {
            mailbox: Fans,
            priority: Priority::Vip,
            messages: 3,
        }),
    };
    let choice = rules.choose(&facts);
    assert_eq!((choice.mailbox, choice.priority), (Fans, Priority::Vip));
    facts.subject = "Re: DMCA";
    assert_eq!(rules.choose(&facts).mailbox, Dmca);
    facts.kind = MailKind::AutoReply;
    let choice = rules.choose(&facts);
    assert_eq!((choice.mailbox, choice.priority), (Fans, Priority::General));
}

#[test]
fn a_list_counts_only_for_the_verified() {
    let rules = rules(
        r#"
        lists.vip = ["Boss@label.example", "@agency.example"]
        [[rule]]
        name = "vip"
        when = { sender_list = ["vip"], verified = true }
        priority = "vip"
        "#,
    );
    for (sender, verified, priority) in [
        ("boss@LABEL.example", true, Priority::Vip),
        ("boss+news@label.example", true, Priority::Vip),
        ("anyone@agency.example", true, Priority::Vip),
        ("boss@label.example", false, Priority::General),
        ("boss@evil.example", true, Priority::General),
        ("anyone@sub.agency.example", true, Priority::General),
    ] {
        let sender = address(sender);
        let facts = SortingFacts {
            recipient: None,
            sender: Some(&sender),
            verified,
            kind: MailKind::Person,
            subject: "",
            body: "",
            mailbox: None,
            thread: None,
        };
        assert_eq!(
            rules.choose(&facts).priority,
            priority,
            "{sender} {verified}"
        );
    }
}

#[test]
fn conditions_all_hold_and_the_first_rule_wins() {
    let rules = rules(
        r#"
        [[rule]]
        name = "both"
        when = { sender_domain = ["label.example"], subject_words = ["tour"] }
        mailbox = "business"
        [[rule]]
        name = "long"
        when = { thread_mailbox = ["fans"], thread_messages_min = 10 }
        priority = "priority"
        [[rule]]
        name = "person"
        when = { sender = ["bo@label.example"], kind = ["person"] }
        mailbox = "fans"
        "#,
    );
    let chosen = |from, subject| ShortMail(INBOX, from, subject, "").chosen(&rules).rule;
    assert_eq!(
        chosen("bo@eu.label.example", "The tour").as_deref(),
        Some("both")
    );
    assert_eq!(
        chosen("bo@label.example", "The tour").as_deref(),
        Some("both")
    );
    assert_eq!(
        chosen("bo@label.example", "Hello").as_deref(),
        Some("person")
    );
    assert_eq!(chosen("bo@notlabel.example", "The tour"), None);
    let choice = ShortMail(INBOX, "x@y.example", "The tour", "").chosen(&rules);
    assert_eq!(
        (choice.mailbox, choice.priority),
        (General, Priority::General)
    );
}

#[test]
fn a_bad_rule_has_one_clear_line() {
    for (text, line) in [
        (
            "[[rule]]\nname = \"a\"\nmailbox = \"spam\"",
            "line 3: unknown variant `spam`, expected one of `dmca`, `business`, `fans`, `general`",
        ),
        (
            "[[rule]]\nname = \"a\"\nwen = {}",
            "line 3: unknown field `wen`, expected one of `name`, `when`, `mailbox`, `priority`",
        ),
        (
            "[[rule]]\nmailbox = \"fans\"",
            "line 1: missing field `name`",
        ),
        ("[[rule]]\nname = \" \"", "rule 1: no name"),
        (
            "[[rule]]\nname = \"a\"\n[[rule]]\nname = \"a\"",
            "rule \"a\": the name is taken by a rule above",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen.sender_list = [\"vip\"]",
            "rule \"a\": when.sender_list: \"vip\": no such list under [lists]",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen.words = [\"!!\"]",
            "rule \"a\": when.words: \"!!\": not a phrase of 1 to 16 words",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen.sender = [\"a b@c\"]",
            "rule \"a\": when.sender: \"a b@c\": neither local, local@domain nor @domain",
        ),
        (
            "[[rule]]\nname = \"a\"\nwhen.sender_domain = [\"a b\"]",
            "rule \"a\": when.sender_domain: \"a b\": not a domain",
        ),
        (
            "[lists]\nvip = [\"boss\"]",
            "lists.vip: \"boss\": neither an address nor @domain",
        ),
    ] {
        let error = Rules::parse(text).unwrap_err().to_string();
        assert_eq!(error, line);
    }
    let kind = Rules::parse("[[rule]]\nname = \"a\"\nwhen.kind = [\"robot\"]").unwrap_err();
    assert!(
        kind.to_string()
            .starts_with("line 3: unknown variant `robot`"),
        "{kind}"
    );
    let broken = Rules::parse("[[rule]\nname").unwrap_err().to_string();
    assert!(
        broken.starts_with("line 1: ") && !broken.contains('\n'),
        "{broken}"
    );
}

#[test]
fn rules_have_bounds() {
    let rule = |n: usize| format!("[[rule]]\nname = \"r{n}\"\n");
    let many: String = (0..=RULES_MAX).map(rule).collect();
    assert_eq!(Rules::parse(&many).unwrap_err(), RulesError::TooMany);
    let values = vec!["\"w\""; VALUES_MAX + 1].join(",");
    let wide = format!("[[rule]]\nname = \"a\"\nwhen.words = [{values}]");
    assert!(matches!(
        Rules::parse(&wide),
        Err(RulesError::Value {
            condition: "words",
            ..
        })
    ));
}

proptest! {
    #[test]
    fn any_text_is_sorted(subject in ".{0,200}", body in ".{0,2000}") {
        let rules = Rules::shipped().unwrap();
        let facts = SortingFacts {
            recipient: None,
            sender: None,
            verified: false,
            kind: MailKind::Person,
            subject: &subject,
            body: &body,
            mailbox: None,
            thread: None,
        };
        prop_assert!(rules.choose(&facts).rule.is_some());
    }

    #[test]
    fn any_rules_are_read_or_refused_on_one_line(text in "[\\PC\n]{0,300}") {
        if let Err(error) = Rules::parse(&text) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
