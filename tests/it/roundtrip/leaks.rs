//! Tokens that must stay hidden, and machines that answer each other.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::{fs, thread};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use data_encoding::BASE64;
use postern::mail::view::View;
use serde_json::json;
use tokio::net::TcpListener;

use super::{Gateway, arrived, event, field, first, letter, read, with_postfix};
use crate::postern::{DOMAIN, SECRET, eventually};
use crate::relay::server::{Act, Fake, Step};
use crate::sink::Sink;

const ANN: &str = "ann@sink.test";
const BOB: &str = "bob@sink.test";

/// The secret words of the addresses in a mail.
fn words_of(bytes: &[u8], from: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes).into_owned() + from;
    let mut words = Vec::new();
    for prefix in ["reply+", "bounce+"] {
        for (at, _) in text.match_indices(prefix) {
            let word: String = text[at + prefix.len()..]
                .chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect();
            if word.len() > 20 {
                words.push(word.to_ascii_lowercase());
            }
        }
    }
    words.sort();
    words.dedup();
    words
}

#[track_caller]
fn shows_none(what: &str, text: &str, words: &[String]) {
    let text = text.to_ascii_lowercase();
    for word in words {
        assert!(!text.contains(word), "{what} shows {word}: {text}");
    }
}

/// A subscriber to the events: it keeps every request, fields and body. It lives as long as the test's
/// process.
struct Subscriber {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Subscriber {
    fn start() -> Self {
        let heard = Arc::default();
        let state = Arc::clone(&heard);
        let (send, receive) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                send.send(listener.local_addr().unwrap().port()).unwrap();
                let routes = Router::new().route("/hook", post(Self::hear));
                let routes = routes.with_state(state);
                axum::serve(listener, routes).await.unwrap();
            });
        });
        let port = receive.recv().unwrap();
        Self { port, heard }
    }

    async fn hear(
        State(heard): State<Arc<Mutex<Vec<String>>>>,
        fields: HeaderMap,
        mut text: String,
    ) {
        write!(text, "\n{fields:?}").unwrap();
        heard.lock().unwrap().push(text);
    }

    /// The configuration tables for it.
    fn tables(&self) -> String {
        let secret = BASE64.encode(b"a secret of test hooks, 32 octets");
        format!(
            "[[events.webhook]]\nname = 'product'\nurl = 'http://127.0.0.1:{}/hook'\nsecret = 'whsec_{secret}'\n",
            self.port
        )
    }

    /// All received requests, after all events so far have arrived.
    fn all(&self, gateway: &Gateway) -> String {
        let events = gateway.events();
        let missing = |heard: &str| {
            let mut names = events.iter().map(|(name, _)| name);
            names.find(|name| !heard.contains(&format!("\"{name}\"")))
        };
        let mut all = String::new();
        eventually("the subscriber hears all", || {
            let heard = self.heard.lock().unwrap();
            all = heard.join("\n");
            heard.len() >= events.len() && missing(&all).is_none()
        });
        assert!(
            !events.is_empty() && all.contains("webhook-signature"),
            "{all}"
        );
        all
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one conversation")]
fn the_token_of_another_person_is_never_visible() {
    let (sink, subscriber) = (Sink::start(), Subscriber::start());
    let (gateway, _postfix, _folder) = with_postfix(&sink, &subscriber.tables());
    let general = format!("general@{DOMAIN}");
    gateway.swaks(
        ANN,
        &general,
        &letter(ANN, &general, "a0@sink.test", "I wait for it."),
    );
    let (thread, _) = gateway.told(1);
    let mut said = event(&thread, "m1", "It left us today.");
    said["cc"] = json!([BOB]);
    gateway.say(&said);
    let _ = arrived(&sink, 2);
    let taken = sink.taken();
    let mail_to = |to: &str| taken.iter().find(|mail| mail.to == [to]).unwrap();
    let (to_ann, to_bob) = (mail_to(ANN), mail_to(BOB));
    let (anns, bobs) = (
        words_of(&to_ann.bytes, &to_ann.from),
        words_of(&to_bob.bytes, &to_bob.from),
    );
    assert_eq!(
        (anns.len(), bobs.len()),
        (2, 2),
        "a reply address and a return path each"
    );
    shows_none("the mail to Ann", &to_ann.text(), &bobs);
    shows_none("the mail to Bob", &to_bob.text(), &anns);

    // Bob answers, and his text contains his own reply address: as text, as a link, and quoted.
    let seen = read(&to_bob.bytes, json!({}));
    let address = field(&seen, "Reply-To").to_owned();
    let split = format!("{}\r\n{}", &address[..30], &address[30..]);
    let answer = letter(
        BOB,
        &address,
        "b1@sink.test",
        &format!(
            "Write to me at {address} please, or <mailto:{}>,\r\nor {split}.",
            address.to_uppercase()
        ),
    );
    gateway.swaks(BOB, &address, &answer);
    let (into, message) = gateway.told(2);
    assert_eq!(into, thread);
    let mut again = event(
        &thread,
        "m2",
        &format!("He said: write to {address}. So be it."),
    );
    again["messageHtml"] = json!(format!(
        "<p>He said: <a href=\"mailto:{address}\">{address}</a></p><p title=\"{address}\">So be it.</p>"
    ));
    again["threadMetadata"]["emailSubject"] = json!(format!("about {address}"));
    again["threadMetadata"]["emailFrom"] = json!(ANN);
    let job = gateway.say(&again);
    let heard = arrived(&sink, 3);
    gateway.becomes(&job, "sent");
    shows_none("the next mail to Ann", &heard.text(), &bobs);
    let seen = read(&heard.bytes, json!({}));
    for part in ["text", "html"] {
        let text = seen[part].as_str().unwrap();
        assert!(
            text.contains("So be it.") && text.contains("reply@inbox.test"),
            "{text}"
        );
        shows_none(part, text, &bobs);
    }
    let all: Vec<String> = [anns, bobs, words_of(&heard.bytes, &heard.from)].concat();
    shows_none("the log", &gateway.postern.log(), &all);
    shows_none("the metrics", &gateway.postern.fetch("/metrics").1, &all);
    shows_none("the events", &format!("{:?}", gateway.events()), &all);
    shows_none("the webhook", &subscriber.all(&gateway), &all);
    shows_none(
        "the jobs",
        &gateway.fetched("/gateway/jobs").to_string(),
        &all,
    );
    shows_none("the job", &gateway.job(&job).to_string(), &all);
    let page = gateway.page("/admin/outbox");
    assert!(page.contains("about reply@inbox.test"), "{page}");
    shows_none("the page", &page, &all);
    // The product receives the text unchanged, because it is the person's.
    assert!(message["body"].as_str().unwrap().contains("Write to me"));
}

/// A product may forward one person's mail to another person as a file.
#[test]
fn tokens_in_attached_files_are_redacted() {
    let fake = Fake::start(|_, _| Act::Usual);
    let gateway = Gateway::start(fake.port, "");
    let job = gateway.say(&first("thread-bob", "m0", BOB));
    gateway.becomes(&job, "sent");
    let to_bob = fake.taken().pop().unwrap();
    let bobs = words_of(&to_bob.bytes, &to_bob.from);
    assert_eq!(bobs.len(), 2, "a reply address and a return path");
    let seen = read(&to_bob.bytes, json!({}));
    let address = field(&seen, "Reply-To").to_owned();
    let page = format!("<p>Write to <a href=\"mailto:{address}\">{address}</a>.</p>");
    let latin = [format!("He\u{e9} <{address}>").as_bytes(), b"\xe9"].concat();
    let mut said = first("thread-ann", "m1", ANN);
    let files: [(&str, &str, Vec<u8>); 4] = [
        ("mail.eml", "message/rfc822", to_bob.bytes.clone()),
        ("note.txt", "text/plain", format!("He is {address}.").into()),
        ("page.html", "text/html", page.into()),
        ("latin.txt", "text/plain; charset=iso-8859-1", latin),
    ];
    said["attachments"] = files
        .iter()
        .map(|(name, kind, bytes)| {
            json!({"filename": name, "contentType": kind, "content": BASE64.encode(bytes)})
        })
        .collect();
    let job = gateway.say(&said);
    gateway.becomes(&job, "sent");
    let to_ann = fake.taken().pop().unwrap();
    let view = View::parse(&to_ann.bytes.into());
    assert_eq!(view.attachments.len(), files.len());
    for (file, (name, _, sent)) in view.attachments.iter().zip(&files) {
        assert_eq!(file.filename.as_deref(), Some(*name));
        let (shown, sent) = (file.bytes(), String::from_utf8_lossy(sent));
        assert!(sent.contains("reply+"), "{name}");
        let shown = String::from_utf8_lossy(&shown);
        assert!(shown.contains("reply@inbox.test"), "{name}: {shown}");
        shows_none(name, &shown, &bobs);
    }
    shows_none("the log", &gateway.postern.log(), &bobs);
    shows_none("the job", &gateway.job(&job).to_string(), &bobs);
    shows_none("the page", &gateway.page("/admin/outbox"), &bobs);
}

/// Ann's answers quote our mail with our address in it.
#[test]
fn a_quoted_reply_address_is_redacted() {
    let (sink, subscriber) = (Sink::start(), Subscriber::start());
    let (gateway, _postfix, _folder) = with_postfix(&sink, &subscriber.tables());
    let general = format!("general@{DOMAIN}");
    gateway.swaks(
        ANN,
        &general,
        &letter(ANN, &general, "a0@sink.test", "I wait for it."),
    );
    let (thread, _) = gateway.told(1);
    gateway.say(&event(&thread, "m1", "It left us today."));
    let heard = arrived(&sink, 1);
    let words = words_of(&heard.bytes, &heard.from);
    let seen = read(
        &heard.bytes,
        json!({
            "style": "outlook", "words": "Thank you.", "id": "<a1@sink.test>",
            "from": ANN, "cc": field(&read(&heard.bytes, json!({})), "Reply-To"),
        }),
    );
    let answer = BASE64
        .decode(seen["answer"].as_str().unwrap().as_bytes())
        .unwrap();
    gateway.swaks(ANN, seen["to"].as_str().unwrap(), &answer);
    let (_, message) = gateway.told(2);
    assert_eq!(message["body"], "Thank you.");
    gateway.say(&event(&thread, "m2", "You are welcome."));
    // Its own fields may have the same token: tokens of the same second are equal.
    let next = read(&arrived(&sink, 2).bytes, json!({}));
    for part in ["text", "html"] {
        let text = next[part].as_str().unwrap();
        assert!(text.contains("You are welcome."), "{text}");
        shows_none(part, text, &words);
    }
    shows_none("the log", &gateway.postern.log(), &words);
    shows_none("the events", &format!("{:?}", gateway.events()), &words);
    shows_none("the webhook", &subscriber.all(&gateway), &words);
}

/// Relays repeat parts of a refused mail, with much text before and after.
#[test]
fn our_addresses_in_a_relays_text_are_redacted() {
    let (says, subscriber) = (Arc::new(Mutex::new(String::new())), Subscriber::start());
    let words = Arc::clone(&says);
    let fake = Fake::start(
        move |step, _| match (step, words.lock().unwrap().as_str()) {
            (Step::End, words) if !words.is_empty() => Act::Say(words.to_owned()),
            _ => Act::Usual,
        },
    );
    let gateway = Gateway::start(fake.port, &subscriber.tables());
    let job = gateway.say(&first("thread", "m0", ANN));
    gateway.becomes(&job, "sent");
    let mail = fake.taken().pop().unwrap();
    let seen = read(&mail.bytes, json!({}));
    let mut secret = words_of(&mail.bytes, &mail.from);
    let path = mail.from.split(['<', '>']).nth(1).unwrap();
    let addresses = [path, field(&seen, "Reply-To")];
    for (n, address) in addresses.into_iter().enumerate() {
        // A long text is cut before it is shown: in the domain, and before it.
        for (m, pad) in [1_000, 1_017, 1_022, 1_027].into_iter().enumerate() {
            let pad = "x".repeat(pad - address.len());
            for (code, state) in [(250, "sent"), (554, "failed")] {
                *says.lock().unwrap() = format!("{code} {pad} <{address}> it is\r\n");
                let message = format!("m{n}.{m}.{code}");
                let job = gateway.say(&event("thread", &message, "It left us today."));
                let told = gateway.becomes(&job, state).to_string();
                let mail = fake.heard().pop().unwrap();
                secret.extend(words_of(&mail.bytes, &mail.from));
                shows_none("the job", &told, &secret);
            }
        }
    }
    shows_none("the log", &gateway.postern.log(), &secret);
    shows_none("the events", &format!("{:?}", gateway.events()), &secret);
    shows_none("the webhook", &subscriber.all(&gateway), &secret);
    shows_none("the page", &gateway.page("/admin/outbox"), &secret);
}

/// Two Posterns that are each other's relay.
fn two() -> (Gateway, Gateway) {
    let known = || Gateway::new(0, "").with_known_ports();
    let (mut here, mut there) = (known(), known());
    let (smtp_here, smtp_there) = (here.postern.smtp, there.postern.smtp);
    let set = |gateway: &Gateway, relay: u16, domain: &str, secret: &str| {
        let text = fs::read_to_string(gateway.postern.config()).unwrap();
        let text = text
            .replace("port = 0\n", &format!("port = {relay}\n"))
            .replace(DOMAIN, domain)
            .replace(SECRET, secret)
            .replace("support@product.test", &format!("general@{domain}"));
        fs::write(gateway.postern.config(), text).unwrap();
    };
    set(&here, smtp_there, "here.test", SECRET);
    set(
        &there,
        smtp_here,
        "there.test",
        "another secret made for tests, worth nothing elsewhere",
    );
    here.postern.start();
    there.postern.start();
    (here, there)
}

#[test]
fn two_gateways_do_not_answer_each_other_for_ever() {
    let (here, there) = two();
    for (n, automatic) in [true, false].into_iter().enumerate() {
        let mut start = event(&format!("thread-{n}"), &format!("start-{n}"), "Hello.");
        start["threadMetadata"]["emailFrom"] = json!("general@there.test");
        start["threadMetadata"]["emailSubject"] = json!("Hello");
        start["automatic"] = json!(automatic);
        let job = here.say(&start);
        here.becomes(&job, "sent");
    }
    // A machine's mail makes no message, so there is nothing to answer; a person's mail does.
    let dropped = || there.postern.metric("postern_ledger_dropped") == 1.0;
    eventually("the machine's mail is dropped", dropped);
    eventually("the person's is told", || {
        there.product.messages().len() == 1
    });
    assert!(here.product.messages().is_empty());
    let told = there.events();
    let ends: Vec<_> = told.iter().map(|(_, data)| &data["dropped"]).collect();
    assert!(ends.contains(&&json!("auto_reply")), "{told:?}");
    // Our own mail that comes back is a loop, regardless of its sender.
    let mark = here.fetched("/gateway/jobs")["data"][0]["emailMessageId"].clone();
    let back = letter(
        "eve@far.test",
        "general@here.test",
        mark.as_str().unwrap().trim_matches(['<', '>']),
        "Hello.",
    );
    here.swaks("eve@far.test", "general@here.test", &back);
    eventually("it is dropped", || {
        here.postern.metric("postern_ledger_dropped") == 1.0
    });
    let (name, data) = here.events().pop().unwrap();
    assert_eq!(
        (name.as_str(), &data["dropped"]),
        ("email.processed", &json!("loop"))
    );
}
