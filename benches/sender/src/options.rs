//! Owns the options of a run. Does not contain defaults that change what is measured.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ring::hmac;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Mails by SMTP.
    Smtp,
    /// Mails to the generic webhook.
    Hook,
    /// Requests for mails of the outbox.
    Jobs,
}

pub(crate) struct Options {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) seconds: Option<Duration>,
    pub(crate) count: Option<u64>,
    pub(crate) sessions: usize,
    pub(crate) size: usize,
    pub(crate) rate: u64,
    pub(crate) to: Vec<String>,
    pub(crate) pipeline: bool,
    pub(crate) fresh: bool,
    pub(crate) starttls: bool,
    pub(crate) times: Option<PathBuf>,
    pub(crate) key: String,
    /// The same key, for signatures.
    pub(crate) signer: hmac::Key,
}

impl Options {
    pub(crate) fn read(
        mut arguments: impl Iterator<Item = String>,
    ) -> Result<Self, Box<dyn Error>> {
        let kind = match arguments.next().as_deref() {
            Some("smtp") => Kind::Smtp,
            Some("hook") => Kind::Hook,
            Some("jobs") => Kind::Jobs,
            other => return Err(format!("smtp, hook or jobs, not {other:?}").into()),
        };
        let mut options = Self {
            kind,
            address: arguments.next().ok_or("an address is missing")?.parse()?,
            seconds: None,
            count: None,
            sessions: 20,
            size: 4096,
            rate: 0,
            to: Vec::new(),
            pipeline: false,
            fresh: false,
            starttls: false,
            times: None,
            key: String::new(),
            signer: hmac::Key::new(hmac::HMAC_SHA256, b""),
        };
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--seconds" => options.seconds = Some(Duration::from_secs(value()?.parse()?)),
                "--count" => options.count = Some(value()?.parse()?),
                "--sessions" => options.sessions = value()?.parse()?,
                "--size" => options.size = value()?.parse()?,
                "--rate" => options.rate = value()?.parse()?,
                "--to" => options.to.push(value()?),
                "--pipeline" => options.pipeline = true,
                "--fresh" => options.fresh = true,
                "--starttls" => options.starttls = true,
                "--times" => options.times = Some(value()?.into()),
                "--key" => options.key = value()?,
                _ => return Err(format!("unknown: {flag}").into()),
            }
        }
        options.signer = hmac::Key::new(hmac::HMAC_SHA256, options.key.as_bytes());
        let is_bounded = options.seconds.is_some_and(|time| time.as_secs() <= 3600)
            || options.count.is_some_and(|count| count <= 20_000_000);
        if !options.address.ip().is_loopback() || options.sessions > 1000 || !is_bounded {
            return Err("only loopback, up to 1000 sessions, and a bounded run".into());
        }
        if options.to.is_empty() {
            return Err("at least one --to is needed".into());
        }
        Ok(options)
    }

    /// The recipient of number n.
    pub(crate) fn recipient(&self, n: u64) -> &str {
        &self.to[n as usize % self.to.len()]
    }
}
