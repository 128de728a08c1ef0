//! Owns an SMTP server without any code of Postern: `mailin-embedded` on loopback, in a separate process,
//! which keeps the accepted mails.
//!
//! Does not misbehave; `relay::server` does. It is not a dependency of this crate, because it would enable
//! a second crypto provider in the rustls that Postern is tested with; so it is built from `benches/sink`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A mail that the sink accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The envelope's sender, without angle brackets.
    pub(crate) from: String,
    /// The envelope's recipients.
    pub(crate) to: Vec<String>,
    /// The octets after DATA, without dot-stuffing.
    pub(crate) bytes: Vec<u8>,
}

impl Kept {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes.clone()).unwrap()
    }
}

/// The server. It ends on drop, or with the test's process.
pub(crate) struct Sink {
    /// The port of SMTP.
    pub(crate) port: u16,
    folder: TempDir,
    /// The process, which ends when its input does.
    child: Child,
}

impl Sink {
    /// Starts it on a free port.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let mut child = Command::new(program())
            .arg("127.0.0.1:0")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().parse();
        Self {
            port: port.unwrap_or_else(|_| panic!("the sink says {line:?}")),
            folder,
            child,
        }
    }

    /// The Postfix transport to the sink.
    pub(crate) fn transport(&self) -> String {
        format!("smtp:[127.0.0.1]:{}", self.port)
    }

    /// The mails with a 250, in order, and perhaps one that is about to get one.
    pub(crate) fn taken(&self) -> Vec<Kept> {
        let files = (0..).map(|n: usize| fs::read(self.folder.path().join(n.to_string())));
        files
            .map_while(Result::ok)
            .map(|file| kept(&file))
            .collect()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

fn kept(file: &[u8]) -> Kept {
    let mut parts = file.splitn(3, |octet| *octet == b'\n');
    let mut part = || parts.next().unwrap().to_vec();
    let (from, to) = [part(), part()]
        .map(|line| String::from_utf8(line).unwrap())
        .into();
    Kept {
        from,
        to: to.split(' ').map(str::to_owned).collect(),
        bytes: part(),
    }
}

/// The program, built in the same place as by `benches/compare.py`.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = root.join("target/sink");
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--release",
                "--locked",
                "--quiet",
                "--manifest-path",
            ])
            .arg(root.join("benches/sink/Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .status()
            .unwrap();
        assert!(built.success(), "benches/sink does not build: {built}");
        target.join("release/sink")
    })
}
