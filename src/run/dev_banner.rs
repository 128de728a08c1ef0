//! Owns the banner of development mode: an address to write to, and commands to paste.
//!
//! Does not print a secret: the commands read the key from its file.

use std::io::Write;
use std::net::SocketAddr;

use serde_json::json;

use super::exit::{Exit, ExitError};
use super::parts::key_ring;
use crate::clock;
use crate::config::Config;
use crate::ingress::smtp::ListenAddress;
use crate::smtp::session::Protocol;
use crate::store::EmbeddedMessages;

/// The idempotency key of the sample thread: one thread per data folder.
const THREAD_KEY: &str = "development-trial-thread";
/// The author in the printed commands.
const SENDER: &str = "ann@example.com";

/// Creates a thread, mints a reply address for it and prints both with instructions.
pub(super) async fn print(
    config: &Config,
    book: &EmbeddedMessages,
    out: &mut impl Write,
) -> Result<(), ExitError> {
    let made = json!({
        "sourceType": "email",
        "identityEmail": SENDER,
        "mailbox": "general",
        "priority": "standard",
        "metadata": { "emailSubject": "Welcome to Postern" },
    });
    let thread = book
        .make_thread(Some(THREAD_KEY.to_owned()), made, clock::now())
        .await
        .map_err(|error| {
            ExitError::with_message(Exit::InputOutput, format!("messages: {error:?}"))
        })?;
    let id = thread["id"].as_str().unwrap_or_default();
    let route = &config.routes[0];
    let address = key_ring(route)?
        .reply_address(
            route.token_format,
            &route.domains[0],
            id,
            None,
            clock::now(),
        )
        .map_err(|error| ExitError::new(Exit::Software, error))?;
    let smtp = listen(config, Protocol::Smtp).unwrap_or_else(|| "127.0.0.1:2525".to_owned());
    let lmtp = listen(config, Protocol::Lmtp).unwrap_or_else(|| "127.0.0.1:2424".to_owned());
    let http = config
        .http_listen
        .first()
        .map_or_else(String::new, SocketAddr::to_string);
    let folder = config.data_dir.display();
    let answer = json!({
        "threadId": id,
        "body": "You are welcome!",
        "recipientEmail": SENDER,
        "subject": "Welcome to Postern",
        "senderName": "Postern",
    });
    write!(
        out,
        "Postern runs in development mode: nothing was configured, so it listens on loopback only.\n\
         \n\
         SMTP {smtp}   LMTP {lmtp}   HTTP http://{http}   data in {folder}/\n\
         \n\
         Reply address: {address}\n\
         \n\
         Write to it, with swaks or with curl:\n\
         \n\
         swaks --server {smtp} --from {SENDER} --to {address} --header 'Subject: Re: Welcome to Postern' --body 'Thank you, it works!'\n\
         printf 'From: {SENDER}\\r\\nTo: {address}\\r\\nSubject: Re: Welcome to Postern\\r\\n\\r\\nThank you, it works!\\r\\n' | curl -sS smtp://{smtp} --mail-from {SENDER} --mail-rcpt '{address}' -T -\n\
         \n\
         Read the conversation:\n\
         \n\
         curl -sS -H \"Authorization: Bearer $(cat {folder}/messages-api-key)\" http://{http}/api/v1/messages/threads/{id}/messages\n\
         \n\
         Answer it; the mail is kept for viewing, not sent:\n\
         \n\
         curl -sS -H \"Authorization: Bearer $(cat {folder}/messages-api-key)\" http://{http}/gateway/outbound -d '{answer}'\n\
         curl -sS -H \"Authorization: Bearer $(cat {folder}/messages-api-key)\" http://{http}/gateway/jobs\n\
         \n\
         See how it looks: http://{http}/admin/outbox\n\
         \n"
    )?;
    out.flush()?;
    Ok(())
}

fn listen(config: &Config, protocol: Protocol) -> Option<String> {
    let listen = config.ingress.listen.iter();
    let mut tcp = listen.filter(|listen| listen.protocol == protocol);
    tcp.find_map(|listen| match &listen.address {
        ListenAddress::Tcp(address) => Some(address.to_string()),
        ListenAddress::Unix(_) => None,
    })
}
