//! An SMTP server on `mailin-embedded` that takes every mail and keeps none.
//!
//! Usage: `sink 127.0.0.1:PORT`

use std::error::Error;
use std::io;

use mailin_embedded::response::OK;
use mailin_embedded::{Handler, Response, Server, SslConfig};

#[derive(Clone)]
struct Sink;

impl Handler for Sink {
    fn data(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        OK
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: sink ADDRESS:PORT")?;
    let mut server = Server::new(Sink);
    // A thread holds one connection for as long as it lasts.
    server.with_name("sink.test").with_num_threads(128).with_ssl(SslConfig::None)?;
    server.with_addr(&address).map_err(|error| error.to_string())?;
    server.serve().map_err(|error| error.to_string().into())
}
