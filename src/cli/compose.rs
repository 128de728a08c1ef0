//! Owns `mail compose`: prints the mail for a message.
//!
//! Does not send or store anything; its tokens are valid, like those of `token mint`.

use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, ValueEnum};

use super::terminal::printable_lines;
use super::{input, token};
use crate::clock;
use crate::config::{Purpose, RouteConfig};
use crate::mail::address::Address;
use crate::mail::job_id::{self, JobId};
use crate::mail::token::KeyRing;
use crate::outbound::compose::{
    ComposeError, Composed, EarlierMessage, HeaderMailbox, HeaderText, Locale, OutgoingAttachment,
    OutgoingMail, TemplateError, Templates, compose,
};
use crate::run::{Exit, ExitError};

/// Octets of an attached file.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Arguments of `mail compose`.
#[derive(Debug, Args)]
pub(super) struct ComposeArgs {
    /// Print the mail and send nothing; required, because this command cannot send
    #[arg(long, required = true)]
    dry_run: bool,
    /// The thread's id in the product
    #[arg(long, value_name = "ID")]
    thread: String,
    /// The recipient; the token in Reply-To is bound to this address
    #[arg(long, value_name = "ADDRESS")]
    recipient: String,
    /// The file with the text; - is standard input
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The file with the same text as HTML; by default HTML is made of the text
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// The subject
    #[arg(long, default_value = "", hide_default_value = true)]
    subject: String,
    /// The Message-ID of the mail that is answered
    #[arg(long, value_name = "ID")]
    in_reply_to: Option<String>,
    /// The author's name
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    sender_name: String,
    /// The product's name
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    product_name: String,
    /// The sender's address; by default support@ the route's first reply domain
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// The language of the fixed texts, for example de or pt-BR
    #[arg(long, value_name = "LOCALE", default_value = "en")]
    locale: String,
    /// A file with an earlier message, newest first; may be repeated
    #[arg(long, value_name = "FILE")]
    history: Vec<PathBuf>,
    /// A file to attach; may be repeated
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// Mark the mail as automatic: no person wrote it
    #[arg(long)]
    automatic: bool,
    /// A folder with templates to use instead of the built-in ones
    #[arg(long, value_name = "FOLDER")]
    templates: Option<PathBuf>,
    /// The route whose keys sign; by default the first one
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Print one form of the text instead of the whole mail
    #[arg(long, value_name = "PART")]
    part: Option<PrintedPart>,
}

/// A form of a mail's text.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PrintedPart {
    /// The HTML
    Html,
    /// The plain text
    Text,
}

impl ComposeArgs {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        let recipient = token::parse_address("recipient", &self.recipient)?;
        let from = self.from.as_deref();
        let from = from
            .map(|from| token::parse_address("from", from))
            .transpose()?;
        let loaded = super::load(file, Purpose::Look)?;
        let route = token::find_route(&loaded.config, self.route.as_deref())?;
        let templates = Templates::load(self.templates.as_deref()).map_err(template_error)?;
        let letter = self.outgoing_mail(route, recipient, from)?;
        let composed = compose(&letter, &templates).map_err(compose_error)?;
        self.print(&composed, out)?;
        Ok(())
    }

    fn print(&self, composed: &Composed, out: &mut impl Write) -> Result<(), ExitError> {
        match self.part {
            // The mail is ASCII without control characters except its line ends.
            None => out.write_all(&composed.bytes)?,
            Some(PrintedPart::Html) => writeln!(out, "{}", printable_lines(&composed.html))?,
            Some(PrintedPart::Text) => writeln!(out, "{}", printable_lines(&composed.plain))?,
        }
        Ok(())
    }

    fn outgoing_mail(
        &self,
        route: &RouteConfig,
        recipient: Address,
        from: Option<Address>,
    ) -> Result<OutgoingMail, ExitError> {
        let keys = token::key_ring(route)?;
        let domain = &route.domains[0];
        let malformed = |error| ExitError::new(Exit::Malformed, error);
        let job = JobId(*uuid::Uuid::new_v4().as_bytes());
        let from = from.map_or_else(|| Address::parse(&format!("support@{domain}")), Ok);
        let history = self.history.iter().map(|path| {
            let name = self.recipient.clone();
            let (at, text) = (clock::now(), read_text(path)?);
            Ok(EarlierMessage { name, at, text })
        });
        let enclosures = self.attach.iter().map(|path| attachment(path));
        Ok(OutgoingMail {
            from: from.map_err(malformed)?,
            sender_name: self.sender_name.clone(),
            product_name: self.product_name.clone(),
            reply_to: self.reply_to(route, &keys, &recipient)?,
            to: HeaderMailbox {
                name: String::new(),
                address: recipient,
            },
            cc: Vec::new(),
            subject: self.subject.clone(),
            text: read_text(&self.text)?,
            html: self.html.as_deref().map(read_text).transpose()?,
            history: history.collect::<Result<_, ExitError>>()?,
            marker: route.reply_marker.clone(),
            attachments: enclosures.collect::<Result<_, ExitError>>()?,
            in_reply_to: self.in_reply_to.clone(),
            references: Vec::new(),
            message_id: job_id::message_id(&keys, domain, job),
            return_path: job_id::return_path(&keys, domain, job).map_err(malformed)?,
            date: clock::now(),
            list_id: None,
            list_unsubscribe: None,
            is_automatic: self.automatic,
            loop_mark: HeaderText::default(),
            locale: Locale::of(&self.locale),
            reply_domains: route.domains.clone(),
            fields: Vec::new(),
        })
    }

    fn reply_to(
        &self,
        route: &RouteConfig,
        keys: &KeyRing,
        recipient: &Address,
    ) -> Result<Address, ExitError> {
        let (format, domain) = (route.token_format, &route.domains[0]);
        let now = clock::now();
        keys.reply_address(format, domain, &self.thread, Some(recipient), now)
            .map_err(|error| ExitError::new(Exit::Malformed, error))
    }
}

fn read_text(path: &Path) -> Result<String, ExitError> {
    String::from_utf8(input::read(path)?).map_err(|error| {
        let line = format!("{}: {error}", path.display());
        ExitError::with_message(Exit::Malformed, line)
    })
}

fn attachment(path: &Path) -> Result<OutgoingAttachment, ExitError> {
    let unreadable = |error: std::io::Error| {
        ExitError::with_message(Exit::NoInput, format!("{}: {error}", path.display()))
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let line = format!("{}: more than {FILE_BYTES_MAX} octets", path.display());
        return Err(ExitError::with_message(Exit::Malformed, line));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(OutgoingAttachment {
        filename: name.into_owned(),
        content_type: "application/octet-stream".to_owned(),
        bytes: Bytes::from(bytes),
    })
}

fn compose_error(error: ComposeError) -> ExitError {
    match error {
        ComposeError::Template(error) => template_error(error),
        error => ExitError::new(Exit::Malformed, error),
    }
}

fn template_error(error: TemplateError) -> ExitError {
    ExitError::new(Exit::Config, error)
}
