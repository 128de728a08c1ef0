//! Owns a conversation with an IMAP server: its commands, and what each one brings (RFC 3501, 2177,
//! 4315, 6851).
//!
//! Does not decide which mail is fetched, nor what becomes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use tokio::time::Instant;

use super::names;
use super::response::{self, Code, Fetched, Kind, Response, Status, Untagged};
use super::wire::{Fault, Stream, Wire};
use crate::clock::Timestamp;

/// How long one command may take as a whole, however steadily its answers come.
const COMMAND_MAX: Duration = Duration::from_secs(15 * 60);
/// Untagged responses to one command. The longest is the listing of a wide span of UIDs.
const RESPONSES_MAX: usize = 1_000_000;
/// Mails of one listing that are kept, the lowest UIDs.
pub(super) const LISTED_MAX: usize = 5_000;
/// Octets of literals that a command has which asks for none.
const LITERAL_BYTES_MIN: usize = 4 * 1024;

/// The conversation.
pub(super) struct Dialogue {
    wire: Wire,
    silence_max: Duration,
    tags: u64,
    capabilities: Vec<String>,
    /// Mail has come since the folder was selected last.
    has_news: bool,
}

/// What a folder says of itself when it is selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) uid_validity: u32,
    /// `None` where the server does not tell.
    pub(super) uid_next: Option<u32>,
    pub(super) is_read_only: bool,
}

/// What is known of a mail before it is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) bytes: u64,
    pub(super) is_seen: bool,
    pub(super) arrived: Option<Timestamp>,
}

impl Dialogue {
    pub(super) fn new(stream: Box<dyn Stream>, silence_max: Duration) -> Self {
        Self {
            wire: Wire::new(stream, silence_max),
            silence_max,
            tags: 0,
            capabilities: Vec::new(),
            has_news: false,
        }
    }

    /// Hears the greeting. True if the server knows us already.
    pub(super) async fn greeted(&mut self) -> Result<bool, Fault> {
        let until = Instant::now() + self.silence_max;
        let raw = self.wire.response(0, until).await?;
        match response::parse(raw)? {
            Response::Untagged(Untagged::Status(status)) => match status.kind {
                Kind::Ok => Ok(false),
                Kind::PreAuth => Ok(true),
                Kind::Bye => Err(Fault::Bye(status.text)),
                Kind::Bad | Kind::No => Err(Fault::Garbled("a greeting")),
            },
            _ => Err(Fault::Garbled("a greeting")),
        }
    }

    /// Asks what the server can do.
    pub(super) async fn learn(&mut self) -> Result<(), Fault> {
        self.capabilities.clear();
        self.command("CAPABILITY", "CAPABILITY").await
    }

    pub(super) fn offers(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|word| word == capability)
    }

    /// Asks for TLS: the stream to speak it over.
    pub(super) async fn start_tls(mut self) -> Result<Box<dyn Stream>, Fault> {
        self.command("STARTTLS", "STARTTLS").await?;
        self.wire.into_stream()
    }

    pub(super) async fn login(&mut self, user: &str, password: &str) -> Result<(), Fault> {
        let plain = user.is_ascii() && password.is_ascii();
        if !plain || self.offers("LOGINDISABLED") {
            // LOGIN has no letters but those of ASCII.
            let words = format!("\0{user}\0{password}");
            return self.authenticate("PLAIN", words.as_bytes()).await;
        }
        let (Some(user), Some(password)) = (names::quoted(user), names::quoted(password)) else {
            return Err(Fault::NotOffered("way to send such a password"));
        };
        self.command("LOGIN", &format!("LOGIN {user} {password}"))
            .await
    }

    /// Logs in with a token of OAuth 2.0, as Google and Microsoft have it.
    pub(super) async fn login_by_token(&mut self, user: &str, token: &str) -> Result<(), Fault> {
        let words = format!("user={user}\x01auth=Bearer {token}\x01\x01");
        self.authenticate("XOAUTH2", words.as_bytes()).await
    }

    async fn authenticate(&mut self, mechanism: &'static str, words: &[u8]) -> Result<(), Fault> {
        let tag = self.say(&format!("AUTHENTICATE {mechanism}")).await?;
        let mut words = Some(BASE64.encode(words));
        let until = Instant::now() + COMMAND_MAX;
        for _ in 0..RESPONSES_MAX {
            match self.hear(LITERAL_BYTES_MIN, until).await? {
                // A second question tells of an error, and the end comes after an empty answer.
                Response::Continue => {
                    let line = format!("{}\r\n", words.take().unwrap_or_default());
                    self.wire.say(line.as_bytes()).await?;
                }
                Response::Done { tag: done, status } if done == tag => {
                    return self.over("AUTHENTICATE", status).map(drop);
                }
                Response::Done { .. } => return Err(Fault::Garbled("a strange tag")),
                Response::Untagged(news) => self.note(news)?,
            }
        }
        Err(Fault::Flood(RESPONSES_MAX))
    }

    /// Opens a folder, also one that is open.
    pub(super) async fn select(&mut self, folder: &str) -> Result<Selected, Fault> {
        let mut selected = Selected::default();
        let mut uid_validity = None;
        let mut take = |news: &Untagged| {
            if let Untagged::Status(status) = news {
                match status.code {
                    Code::UidValidity(number) => uid_validity = Some(number),
                    Code::UidNext(number) => selected.uid_next = Some(number),
                    _ => {}
                }
            }
        };
        let command = format!("SELECT {}", wire_name(folder)?);
        let code = self.ask("SELECT", &command, &mut take).await?;
        selected.is_read_only = code == Code::ReadOnly;
        selected.uid_validity = uid_validity.ok_or(Fault::NotOffered("UIDVALIDITY"))?;
        // What was said before is in what is listed now.
        self.has_news = false;
        Ok(selected)
    }

    /// The mails whose UIDs are from `first` to `last`, at most [`LISTED_MAX`]: the lowest of them.
    pub(super) async fn list(
        &mut self,
        first: u32,
        last: u32,
    ) -> Result<BTreeMap<u32, Listed>, Fault> {
        let mut listed = BTreeMap::new();
        let mut take = |news: &Untagged| {
            let Untagged::Fetch(Fetched {
                uid: Some(uid),
                size: Some(bytes),
                seen: Some(is_seen),
                arrived,
                ..
            }) = news
            else {
                return;
            };
            if !(first..=last).contains(uid) {
                return;
            }
            let mail = Listed {
                bytes: *bytes,
                is_seen: *is_seen,
                arrived: *arrived,
            };
            listed.insert(*uid, mail);
            if listed.len() > LISTED_MAX {
                listed.pop_last();
            }
        };
        let command = format!("UID FETCH {first}:{last} (UID FLAGS INTERNALDATE RFC822.SIZE)");
        self.ask("FETCH", &command, &mut take).await?;
        Ok(listed)
    }

    /// The mails of these UIDs, as far as the server gives them; flags stay as they are.
    pub(super) async fn bodies(
        &mut self,
        uids: &[u32],
        bytes_max: usize,
    ) -> Result<BTreeMap<u32, Bytes>, Fault> {
        let tag = self
            .say(&format!("UID FETCH {} (UID BODY.PEEK[])", names::set(uids)))
            .await?;
        let until = Instant::now() + COMMAND_MAX;
        let mut bodies = BTreeMap::new();
        let mut room = bytes_max;
        for _ in 0..RESPONSES_MAX {
            match self.hear(room, until).await? {
                Response::Done { tag: done, status } if done == tag => {
                    return self.over("FETCH", status).map(|_| bodies);
                }
                Response::Untagged(Untagged::Fetch(Fetched {
                    uid: Some(uid),
                    body: Some(body),
                    ..
                })) => {
                    // What is not kept counts too: it was in memory.
                    room = room.saturating_sub(body.len());
                    if uids.contains(&uid) {
                        bodies.entry(uid).or_insert(body);
                    }
                }
                Response::Untagged(news) => self.note(news)?,
                _ => return Err(Fault::Garbled("an answer to FETCH")),
            }
        }
        Err(Fault::Flood(RESPONSES_MAX))
    }

    /// Sets a flag on mails.
    pub(super) async fn flag(&mut self, uids: &[u32], flag: &str) -> Result<(), Fault> {
        let set = names::set(uids);
        let command = format!("UID STORE {set} +FLAGS.SILENT ({flag})");
        self.command("STORE", &command).await
    }

    /// Moves mails to a folder, which is made if it is not there. False if they were only copied,
    /// and marked as deleted.
    pub(super) async fn relocate(&mut self, uids: &[u32], folder: &str) -> Result<bool, Fault> {
        let (set, name) = (names::set(uids), wire_name(folder)?);
        let moves = self.offers("MOVE");
        let (what, command) = match moves {
            true => ("MOVE", format!("UID MOVE {set} {name}")),
            false => ("COPY", format!("UID COPY {set} {name}")),
        };
        if self.try_to(what, &command).await? == Tried::FolderMissing {
            self.command("CREATE", &format!("CREATE {name}")).await?;
            self.command(what, &command).await?;
        }
        match moves {
            true => Ok(true),
            false => self.delete(uids).await,
        }
    }

    /// Deletes mails for good. False if they are only marked as deleted: without UIDPLUS, to remove
    /// them would remove what somebody else has marked, too.
    pub(super) async fn delete(&mut self, uids: &[u32]) -> Result<bool, Fault> {
        self.flag(uids, "\\Deleted").await?;
        if !self.offers("UIDPLUS") {
            return Ok(false);
        }
        let command = format!("UID EXPUNGE {}", names::set(uids));
        self.command("EXPUNGE", &command).await?;
        Ok(true)
    }

    /// True if the server has told of new mail since the folder was selected.
    pub(super) const fn has_news(&self) -> bool {
        self.has_news
    }

    /// Waits with IDLE until the server tells of new mail, or until `until`. It may be given up: then
    /// this conversation is of no more use.
    pub(super) async fn idle(&mut self, until: Instant) -> Result<(), Fault> {
        let tag = self.say("IDLE").await?;
        let mut is_idle = false;
        for _ in 0..RESPONSES_MAX {
            if is_idle && (self.has_news || !self.wire.news(until).await?) {
                break;
            }
            match self.hear(0, Instant::now() + self.silence_max).await? {
                Response::Continue => is_idle = true,
                Response::Untagged(news) => self.note(news)?,
                Response::Done { status, .. } => {
                    // RFC 2177: nothing but a refusal ends it before we do.
                    return Err(Fault::Refused {
                        what: "IDLE",
                        said: status.text,
                    });
                }
            }
        }
        self.wire.say(b"DONE\r\n").await?;
        self.until_over("IDLE", &tag, &mut |_| ()).await.map(drop)
    }

    /// Says good-bye, and does not mind how that goes.
    pub(super) async fn logout(mut self) {
        if self.say("LOGOUT").await.is_ok() {
            let until = Instant::now() + Duration::from_secs(1);
            while self.hear(0, until).await.is_ok() {}
        }
    }

    async fn command(&mut self, what: &'static str, command: &str) -> Result<(), Fault> {
        self.ask(what, command, &mut |_| ()).await.map(drop)
    }

    async fn try_to(&mut self, what: &'static str, command: &str) -> Result<Tried, Fault> {
        let tag = self.say(command).await?;
        let status = self.status(&tag, &mut |_| ()).await?;
        if status.kind == Kind::No && status.code == Code::TryCreate {
            return Ok(Tried::FolderMissing);
        }
        self.over(what, status).map(|_| Tried::Done)
    }

    async fn ask(
        &mut self,
        what: &'static str,
        command: &str,
        take: &mut (dyn FnMut(&Untagged) + Send),
    ) -> Result<Code, Fault> {
        let tag = self.say(command).await?;
        self.until_over(what, &tag, take).await
    }

    async fn until_over(
        &mut self,
        what: &'static str,
        tag: &str,
        take: &mut (dyn FnMut(&Untagged) + Send),
    ) -> Result<Code, Fault> {
        let status = self.status(tag, take).await?;
        self.over(what, status)
    }

    /// Hears what comes until the command with this tag is over.
    async fn status(
        &mut self,
        tag: &str,
        take: &mut (dyn FnMut(&Untagged) + Send),
    ) -> Result<Status, Fault> {
        let until = Instant::now() + COMMAND_MAX;
        for _ in 0..RESPONSES_MAX {
            match self.hear(LITERAL_BYTES_MIN, until).await? {
                Response::Done { tag: done, status } if done == tag => return Ok(status),
                Response::Done { .. } => return Err(Fault::Garbled("a strange tag")),
                Response::Continue => return Err(Fault::Garbled("a question")),
                Response::Untagged(news) => {
                    take(&news);
                    self.note(news)?;
                }
            }
        }
        Err(Fault::Flood(RESPONSES_MAX))
    }

    fn over(&mut self, what: &'static str, status: Status) -> Result<Code, Fault> {
        match status.kind {
            Kind::Ok => {
                if let Code::Capability(words) = &status.code {
                    self.capabilities.clone_from(words);
                }
                Ok(status.code)
            }
            _ => Err(Fault::Refused {
                what,
                said: status.text,
            }),
        }
    }

    fn note(&mut self, news: Untagged) -> Result<(), Fault> {
        match news {
            Untagged::Capability(words) => self.capabilities = words,
            Untagged::Exists => self.has_news = true,
            Untagged::Status(status) if status.kind == Kind::Bye => {
                return Err(Fault::Bye(status.text));
            }
            Untagged::Fetch(_) | Untagged::Other | Untagged::Status(_) => {}
        }
        Ok(())
    }

    async fn say(&mut self, command: &str) -> Result<String, Fault> {
        self.tags += 1;
        let tag = format!("p{}", self.tags);
        self.wire
            .say(format!("{tag} {command}\r\n").as_bytes())
            .await?;
        Ok(tag)
    }

    async fn hear(&mut self, literal_bytes: usize, until: Instant) -> Result<Response, Fault> {
        response::parse(self.wire.response(literal_bytes, until).await?)
    }
}

/// How a command went that may lack a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Done,
    FolderMissing,
}

fn wire_name(folder: &str) -> Result<String, Fault> {
    names::quoted(&names::folder(folder)).ok_or(Fault::NotOffered("folder of such a name"))
}
