//! Owns the ports that a test must know before a program listens there: a peer's configuration names
//! them, or the program is to come back to them.
//!
//! Does not bind them for anybody. Whatever can choose its port by itself (`:0`) does, and says which.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::Mutex;

/// Ports below the range from which the system takes those of `:0` and of outgoing connections
/// (32768 and above on Linux), so that nothing takes one between the promise and the bind.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Locks of the ports that this process has promised. They hold until it ends.
static PROMISED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port at which nobody listens, and which no other test of this machine is given.
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
