//! An SMTP server on `mailin-embedded` that accepts every mail and discards it, or keeps it in a folder.
//!
//! Usage: `sink ADDRESS:PORT [FOLDER]`. With a folder it prints its address, and ends when its standard
//! input does. The nth mail is the file `n`, from 0: a line with the sender, one with the recipients, and
//! the mail without dot-stuffing. A file exists only when it is complete.

use std::error::Error;
use std::io::{self, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, process, thread};

use mailin_embedded::response::{NO_STORAGE, OK, OUT_OF_SPACE};
use mailin_embedded::{Handler, Response, Server, SslConfig};
use socket2::SockRef;

/// The number of mails that are kept; further ones are refused.
const MAILS_MAX: usize = 10_000;
/// Octets of the longest mail that is kept.
const BYTES_MAX: usize = 64 << 20;

/// The state of one connection: a clone of the first.
#[derive(Clone)]
struct Sink {
    folder: Option<Arc<PathBuf>>,
    taken: Arc<AtomicUsize>,
    mail: Vec<u8>,
    is_too_long: bool,
}

impl Sink {
    fn keep(&self, folder: &PathBuf) -> Response {
        let number = self.taken.fetch_add(1, Ordering::SeqCst);
        if number >= MAILS_MAX {
            return OUT_OF_SPACE;
        }
        let half = folder.join(format!("{number}.part"));
        let written = fs::write(&half, &self.mail)
            .and_then(|()| fs::rename(&half, folder.join(number.to_string())));
        match written {
            Ok(()) => OK,
            Err(error) => {
                eprintln!("sink: {}: {error}", half.display());
                OUT_OF_SPACE
            }
        }
    }
}

impl Handler for Sink {
    fn data_start(&mut self, _: &str, from: &str, _: bool, to: &[String]) -> Response {
        self.mail = format!("{from}\n{}\n", to.join(" ")).into_bytes();
        self.is_too_long = false;
        OK
    }

    fn data(&mut self, line: &[u8]) -> io::Result<()> {
        if self.folder.is_none() {
            return Ok(());
        }
        // An error here would become a response in the middle of the mail.
        self.is_too_long |= self.mail.len() + line.len() > BYTES_MAX;
        if !self.is_too_long {
            self.mail.extend_from_slice(line);
        }
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        match &self.folder {
            _ if self.is_too_long => NO_STORAGE,
            Some(folder) => self.keep(folder),
            None => OK,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .ok_or("usage: sink ADDRESS:PORT [FOLDER]")?;
    let folder = arguments
        .next()
        .map(|folder| Arc::new(PathBuf::from(folder)));
    if folder.is_some() {
        thread::spawn(|| {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            process::exit(0);
        });
    }
    let listener = TcpListener::bind(&address)?;
    // The accepted connections inherit it. Otherwise the second of two responses waits for the client's
    // delayed acknowledgement of the first.
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    if folder.is_some() {
        println!("{}", listener.local_addr()?);
    }
    let mut server = Server::new(Sink {
        folder,
        taken: Arc::default(),
        mail: Vec::new(),
        is_too_long: false,
    });
    // Each connection uses one thread until it ends.
    server
        .with_name("sink.test")
        .with_num_threads(128)
        .with_ssl(SslConfig::None)?;
    server.with_tcp_listener(listener);
    server.serve().map_err(|error| error.to_string().into())
}
