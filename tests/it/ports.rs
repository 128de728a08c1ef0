//! Owns ports that a test must know before a program listens there: a peer's configuration names them, or
//! the program must use them again after a restart.
//!
//! Does not bind them. A program that can choose its port itself (`:0`) does so and reports it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::Mutex;

/// The first port, below the range that the system uses for `:0` and for outgoing connections (32768 and
/// above on Linux), so that no process takes one between the reservation and the bind.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// The locks of the ports that this process has reserved. They are held until it ends.
static PROMISED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A free port that no other test on this machine gets.
pub(crate) fn reserve() -> u16 {
    let folder = std::env::temp_dir().join("postern-test-ports");
    fs::create_dir_all(&folder).unwrap();
    let mut promised = PROMISED.lock().unwrap();
    let begin = std::process::id() as usize * 31 + promised.len();
    let ports = (0..usize::from(COUNT)).map(|n| (begin + n) % usize::from(COUNT));
    for port in ports.map(|n| FIRST + u16::try_from(n).unwrap()) {
        let lock = File::create(folder.join(port.to_string())).unwrap();
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            promised.push(lock);
            return port;
        }
    }
    panic!("all ports from {FIRST} on are taken");
}
