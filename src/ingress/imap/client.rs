//! Owns a session with an IMAP server: its commands, and the result of each one (RFC 3501, 2177,
//! 4315, 6851).
//!
//! Does not decide which mail is fetched, nor how it is treated.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::response::{
    self, FetchData, ImapResponse, ImapStatus, ResponseCode, StatusKind, Untagged,
};
use super::syntax;
use super::transport::{ImapFault, ImapStream, ImapTransport};
use crate::client::{plain_response, xoauth2_response};
use crate::clock::Timestamp;

/// The maximum time of one command as a whole, however steadily its responses arrive.
const COMMAND_MAX: Duration = Duration::from_secs(15 * 60);
/// The maximum number of untagged responses to one command. The longest is the listing of a wide span of
/// UIDs.
const RESPONSES_MAX: usize = 1_000_000;
/// The maximum number of listed mails that are kept, lowest UIDs first.
pub(super) const LISTED_MAX: usize = 5_000;
/// Octets of literals allowed for a command that requests none.
const LITERAL_BYTES_MIN: usize = 4 * 1024;

/// A session with a server.
pub(super) struct ImapClient {
    transport: ImapTransport,
    read_timeout: Duration,
    tags: u64,
    capabilities: Vec<String>,
    /// True if the server has announced mail since the folder was last selected.
    has_new_mail: bool,
}

/// The properties of a selected folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SelectedFolder {
    pub(super) uid_validity: u32,
    /// `None` if the server does not report it.
    pub(super) uid_next: Option<u32>,
    pub(super) is_read_only: bool,
}

/// The properties of a mail that are known before it is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListedMail {
    pub(super) bytes: u64,
    pub(super) is_seen: bool,
    pub(super) arrived: Option<Timestamp>,
}

impl ImapClient {
    pub(super) fn new(stream: Box<dyn ImapStream>, silence_max: Duration) -> Self {
        Self {
            transport: ImapTransport::new(stream, silence_max),
            read_timeout: silence_max,
            tags: 0,
            capabilities: Vec::new(),
            has_new_mail: false,
        }
    }

    /// Reads the greeting; true if the server has authenticated us already (PREAUTH).
    pub(super) async fn read_greeting(&mut self) -> Result<bool, ImapFault> {
        let until = Instant::now() + self.read_timeout;
        let raw = self.transport.read_response(0, until).await?;
        match response::parse(raw)? {
            ImapResponse::Untagged(Untagged::Status(status)) => match status.kind {
                StatusKind::Ok => Ok(false),
                StatusKind::PreAuth => Ok(true),
                StatusKind::Bye => Err(ImapFault::Bye(status.text)),
                StatusKind::Bad | StatusKind::No => Err(ImapFault::Protocol("a greeting")),
            },
            _ => Err(ImapFault::Protocol("a greeting")),
        }
    }

    /// Requests the server's capabilities.
    pub(super) async fn request_capabilities(&mut self) -> Result<(), ImapFault> {
        self.capabilities.clear();
        self.command("CAPABILITY", "CAPABILITY").await
    }

    pub(super) fn has_capability(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|word| word == capability)
    }

    /// Requests TLS, and returns the stream for the handshake.
    pub(super) async fn start_tls(mut self) -> Result<Box<dyn ImapStream>, ImapFault> {
        self.command("STARTTLS", "STARTTLS").await?;
        self.transport.into_stream()
    }

    pub(super) async fn login(&mut self, user: &str, password: &str) -> Result<(), ImapFault> {
        let plain = user.is_ascii() && password.is_ascii();
        if !plain || self.has_capability("LOGINDISABLED") {
            // LOGIN is limited to ASCII.
            return self
                .authenticate("PLAIN", plain_response(user, password))
                .await;
        }
        let (Some(user), Some(password)) = (syntax::quoted(user), syntax::quoted(password)) else {
            return Err(ImapFault::NotOffered("way to send such a password"));
        };
        self.command("LOGIN", &format!("LOGIN {user} {password}"))
            .await
    }

    /// Logs in with an OAuth 2.0 access token (XOAUTH2).
    pub(super) async fn login_by_token(
        &mut self,
        user: &str,
        token: &str,
    ) -> Result<(), ImapFault> {
        self.authenticate("XOAUTH2", xoauth2_response(user, token))
            .await
    }

    async fn authenticate(
        &mut self,
        mechanism: &'static str,
        response: String,
    ) -> Result<(), ImapFault> {
        let tag = self
            .send_command(&format!("AUTHENTICATE {mechanism}"))
            .await?;
        let mut response = Some(response);
        let until = Instant::now() + COMMAND_MAX;
        for _ in 0..RESPONSES_MAX {
            match self.read_response(LITERAL_BYTES_MIN, until).await? {
                // A second challenge carries an error, and the result follows an empty response.
                ImapResponse::Continuation => {
                    let line = format!("{}\r\n", response.take().unwrap_or_default());
                    self.transport.send(line.as_bytes()).await?;
                }
                ImapResponse::Tagged { tag: done, status } if done == tag => {
                    return self.check_status("AUTHENTICATE", status).map(drop);
                }
                ImapResponse::Tagged { .. } => return Err(ImapFault::Protocol("a strange tag")),
                ImapResponse::Untagged(news) => self.record_untagged(news)?,
            }
        }
        Err(ImapFault::TooManyResponses(RESPONSES_MAX))
    }

    /// Selects a folder, even if it is already selected.
    pub(super) async fn select(&mut self, folder: &str) -> Result<SelectedFolder, ImapFault> {
        let mut selected = SelectedFolder::default();
        let mut uid_validity = None;
        let mut take = |news: &Untagged| {
            if let Untagged::Status(status) = news {
                match status.code {
                    ResponseCode::UidValidity(number) => uid_validity = Some(number),
                    ResponseCode::UidNext(number) => selected.uid_next = Some(number),
                    _ => {}
                }
            }
        };
        let command = format!("SELECT {}", wire_name(folder)?);
        let code = self.command_with("SELECT", &command, &mut take).await?;
        selected.is_read_only = code == ResponseCode::ReadOnly;
        selected.uid_validity = uid_validity.ok_or(ImapFault::NotOffered("UIDVALIDITY"))?;
        // Earlier announcements are covered by the next listing.
        self.has_new_mail = false;
        Ok(selected)
    }

    /// The mails whose UIDs are from `first` to `last`, at most [`LISTED_MAX`]: the lowest of them.
    pub(super) async fn list_mails(
        &mut self,
        first: u32,
        last: u32,
    ) -> Result<BTreeMap<u32, ListedMail>, ImapFault> {
        let mut listed = BTreeMap::new();
        let mut take = |news: &Untagged| {
            let Untagged::Fetch(FetchData {
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
            let mail = ListedMail {
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
        self.command_with("FETCH", &command, &mut take).await?;
        Ok(listed)
    }

    /// The mails of these UIDs that the server returns; flags stay unchanged.
    pub(super) async fn fetch_bodies(
        &mut self,
        uids: &[u32],
        bytes_max: usize,
    ) -> Result<BTreeMap<u32, Bytes>, ImapFault> {
        let tag = self
            .send_command(&format!(
                "UID FETCH {} (UID BODY.PEEK[])",
                syntax::uid_set(uids)
            ))
            .await?;
        let until = Instant::now() + COMMAND_MAX;
        let mut bodies = BTreeMap::new();
        let mut room = bytes_max;
        for _ in 0..RESPONSES_MAX {
            match self.read_response(room, until).await? {
                ImapResponse::Tagged { tag: done, status } if done == tag => {
                    return self.check_status("FETCH", status).map(|_| bodies);
                }
                ImapResponse::Untagged(Untagged::Fetch(FetchData {
                    uid: Some(uid),
                    body: Some(body),
                    ..
                })) => {
                    // A mail that is not kept counts too, because it was in memory.
                    room = room.saturating_sub(body.len());
                    if uids.contains(&uid) {
                        bodies.entry(uid).or_insert(body);
                    }
                }
                ImapResponse::Untagged(news) => self.record_untagged(news)?,
                _ => return Err(ImapFault::Protocol("an answer to FETCH")),
            }
        }
        Err(ImapFault::TooManyResponses(RESPONSES_MAX))
    }

    /// Sets a flag on mails.
    pub(super) async fn add_flag(&mut self, uids: &[u32], flag: &str) -> Result<(), ImapFault> {
        let set = syntax::uid_set(uids);
        let command = format!("UID STORE {set} +FLAGS.SILENT ({flag})");
        self.command("STORE", &command).await
    }

    /// Moves mails to a folder, which is created if it does not exist. False if they were only copied, and
    /// marked as deleted.
    pub(super) async fn move_to(&mut self, uids: &[u32], folder: &str) -> Result<bool, ImapFault> {
        let (set, name) = (syntax::uid_set(uids), wire_name(folder)?);
        let moves = self.has_capability("MOVE");
        let (what, command) = match moves {
            true => ("MOVE", format!("UID MOVE {set} {name}")),
            false => ("COPY", format!("UID COPY {set} {name}")),
        };
        if self.command_or_missing_folder(what, &command).await? == FolderCommand::FolderMissing {
            self.command("CREATE", &format!("CREATE {name}")).await?;
            self.command(what, &command).await?;
        }
        match moves {
            true => Ok(true),
            false => self.delete(uids).await,
        }
    }

    /// Deletes mails permanently. False if they are only marked as deleted: without UIDPLUS, an expunge
    /// would also remove mails that other clients have marked.
    pub(super) async fn delete(&mut self, uids: &[u32]) -> Result<bool, ImapFault> {
        self.add_flag(uids, "\\Deleted").await?;
        if !self.has_capability("UIDPLUS") {
            return Ok(false);
        }
        let command = format!("UID EXPUNGE {}", syntax::uid_set(uids));
        self.command("EXPUNGE", &command).await?;
        Ok(true)
    }

    /// True if the server has announced mail since the folder was selected.
    pub(super) const fn has_new_mail(&self) -> bool {
        self.has_new_mail
    }

    /// Waits with IDLE until the server announces mail, or until `until`. If the future is dropped, the
    /// session can no longer be used.
    pub(super) async fn idle(&mut self, until: Instant) -> Result<(), ImapFault> {
        let tag = self.send_command("IDLE").await?;
        let mut is_idle = false;
        for _ in 0..RESPONSES_MAX {
            if is_idle && (self.has_new_mail || !self.transport.wait_input(until).await?) {
                break;
            }
            match self
                .read_response(0, Instant::now() + self.read_timeout)
                .await?
            {
                ImapResponse::Continuation => is_idle = true,
                ImapResponse::Untagged(news) => self.record_untagged(news)?,
                ImapResponse::Tagged { status, .. } => {
                    // Only a refusal ends IDLE before DONE (RFC 2177).
                    return Err(ImapFault::Refused {
                        what: "IDLE",
                        said: status.text,
                    });
                }
            }
        }
        self.transport.send(b"DONE\r\n").await?;
        self.finish_command("IDLE", &tag, &mut |_| ())
            .await
            .map(drop)
    }

    /// Logs out. The result does not matter.
    pub(super) async fn logout(mut self) {
        if self.send_command("LOGOUT").await.is_ok() {
            let until = Instant::now() + Duration::from_secs(1);
            while self.read_response(0, until).await.is_ok() {}
        }
    }

    async fn command(&mut self, what: &'static str, command: &str) -> Result<(), ImapFault> {
        self.command_with(what, command, &mut |_| ())
            .await
            .map(drop)
    }

    async fn command_or_missing_folder(
        &mut self,
        what: &'static str,
        command: &str,
    ) -> Result<FolderCommand, ImapFault> {
        let tag = self.send_command(command).await?;
        let status = self.read_until_tagged(&tag, &mut |_| ()).await?;
        if status.kind == StatusKind::No && status.code == ResponseCode::TryCreate {
            return Ok(FolderCommand::FolderMissing);
        }
        self.check_status(what, status).map(|_| FolderCommand::Done)
    }

    async fn command_with(
        &mut self,
        what: &'static str,
        command: &str,
        take: &mut (dyn FnMut(&Untagged) + Send),
    ) -> Result<ResponseCode, ImapFault> {
        let tag = self.send_command(command).await?;
        self.finish_command(what, &tag, take).await
    }

    async fn finish_command(
        &mut self,
        what: &'static str,
        tag: &str,
        take: &mut (dyn FnMut(&Untagged) + Send),
    ) -> Result<ResponseCode, ImapFault> {
        let status = self.read_until_tagged(tag, take).await?;
        self.check_status(what, status)
    }

    /// Reads responses until the tagged one of this command.
    async fn read_until_tagged(
        &mut self,
        tag: &str,
        take: &mut (dyn FnMut(&Untagged) + Send),
    ) -> Result<ImapStatus, ImapFault> {
        let until = Instant::now() + COMMAND_MAX;
        for _ in 0..RESPONSES_MAX {
            match self.read_response(LITERAL_BYTES_MIN, until).await? {
                ImapResponse::Tagged { tag: done, status } if done == tag => return Ok(status),
                ImapResponse::Tagged { .. } => return Err(ImapFault::Protocol("a strange tag")),
                ImapResponse::Continuation => return Err(ImapFault::Protocol("a question")),
                ImapResponse::Untagged(news) => {
                    take(&news);
                    self.record_untagged(news)?;
                }
            }
        }
        Err(ImapFault::TooManyResponses(RESPONSES_MAX))
    }

    fn check_status(
        &mut self,
        what: &'static str,
        status: ImapStatus,
    ) -> Result<ResponseCode, ImapFault> {
        match status.kind {
            StatusKind::Ok => {
                if let ResponseCode::Capability(words) = &status.code {
                    self.capabilities.clone_from(words);
                }
                Ok(status.code)
            }
            _ => Err(ImapFault::Refused {
                what,
                said: status.text,
            }),
        }
    }

    fn record_untagged(&mut self, news: Untagged) -> Result<(), ImapFault> {
        match news {
            Untagged::Capability(words) => self.capabilities = words,
            Untagged::Exists => self.has_new_mail = true,
            Untagged::Status(status) if status.kind == StatusKind::Bye => {
                return Err(ImapFault::Bye(status.text));
            }
            Untagged::Fetch(_) | Untagged::Other | Untagged::Status(_) => {}
        }
        Ok(())
    }

    async fn send_command(&mut self, command: &str) -> Result<String, ImapFault> {
        self.tags += 1;
        let tag = format!("p{}", self.tags);
        self.transport
            .send(format!("{tag} {command}\r\n").as_bytes())
            .await?;
        Ok(tag)
    }

    async fn read_response(
        &mut self,
        literal_bytes: usize,
        until: Instant,
    ) -> Result<ImapResponse, ImapFault> {
        response::parse(self.transport.read_response(literal_bytes, until).await?)
    }
}

/// The result of a command whose folder may not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FolderCommand {
    Done,
    FolderMissing,
}

fn wire_name(folder: &str) -> Result<String, ImapFault> {
    syntax::quoted(&syntax::encode_folder(folder))
        .ok_or(ImapFault::NotOffered("folder of such a name"))
}
