//! Owns a Postern as its operators run it: the real program, a configuration file, a data folder.
//!
//! Does not know what is inside: the tests speak SMTP, LMTP, HTTP and the command line with it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::postfix::free_port;
use crate::product::KEY;

/// The reply domain of the tests.
pub(crate) const DOMAIN: &str = "inbox.test";
/// The secret of its route's key 0.
pub(crate) const SECRET: &str = "a secret made for tests, worth nothing elsewhere";

/// A Postern's folder, ports and configuration; the program may run or not.
pub(crate) struct Postern {
    folder: TempDir,
    /// Where it speaks SMTP.
    pub(crate) smtp: u16,
    /// Where it speaks LMTP.
    pub(crate) lmtp: u16,
    /// Where it speaks HTTP.
    pub(crate) http: u16,
    child: Option<Child>,
}

impl Postern {
    /// A Postern that posts to `base_url`, or to its own Messages API, with `extra` lines of TOML at the
    /// end. It does not run yet.
    pub(crate) fn new(base_url: Option<&str>, extra: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let (smtp, lmtp, http) = (free_port(), free_port(), free_port());
        let own = format!("http://127.0.0.1:{http}/api/v1/messages");
        let (enabled, url) = base_url.map_or((true, own.as_str()), |url| (false, url));
        let data = folder.path().join("data");
        // The tests' senders are in no DNS. A table can be opened only once.
        let unchecked = match extra.contains("[auth]") {
            true => "",
            false => "[auth]\nenabled = false\n",
        };
        let text = format!(
            "[server]\nhostname = \"mx.test\"\ndata_dir = \"{}\"\n\
             [smtp]\nlisten = [\"127.0.0.1:{smtp}\"]\n\
             [lmtp]\nlisten = [\"127.0.0.1:{lmtp}\"]\n[http]\nlisten = [\"127.0.0.1:{http}\"]\n\
             {unchecked}[embedded_api]\nenabled = {enabled}\nkey = \"{KEY}\"\n\
             [[route]]\nname = \"test\"\ndomains = [\"{DOMAIN}\"]\n\
             secrets = [{{ id = 0, secret = \"{SECRET}\" }}]\n\
             [route.api]\nbase_url = \"{url}\"\nkey = \"{KEY}\"\n{extra}",
            data.display()
        );
        fs::write(folder.path().join("postern.toml"), text).unwrap();
        Self {
            folder,
            smtp,
            lmtp,
            http,
            child: None,
        }
    }

    /// Adds lines to the configuration's end.
    pub(crate) fn configure(&self, lines: &str) {
        let mut text = fs::read_to_string(self.config()).unwrap();
        text.push_str(lines);
        fs::write(self.config(), text).unwrap();
    }

    /// Starts the program and waits until it answers on every port.
    pub(crate) fn start(&mut self) {
        self.start_under(&[]);
    }

    /// Starts the program as the last argument of `wrap` (strace, say), and waits until it answers.
    pub(crate) fn start_under(&mut self, wrap: &[&str]) {
        assert!(self.child.is_none(), "it runs");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut words: Vec<String> = wrap.iter().map(|&word| word.to_owned()).collect();
        words.extend([
            binary().display().to_string(),
            "serve".into(),
            "--config".into(),
            self.config(),
        ]);
        let child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        for port in [self.smtp, self.lmtp, self.http] {
            self.wait_for(port);
        }
    }

    fn wait_for(&mut self, port: u16) {
        for _ in 0..1200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return;
            }
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().unwrap())
            {
                panic!("postern ended with {status}: {}", self.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("postern does not listen on {port}: {}", self.log());
    }

    /// The process id of the program.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end, which must be a clean one.
    pub(crate) fn stop(&mut self) {
        signal("TERM", self.pid());
        let status = self.child.take().unwrap().wait().unwrap();
        assert!(
            status.success(),
            "postern ended with {status}: {}",
            self.log()
        );
    }

    /// Waits until the program has ended by itself; its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.take().unwrap().wait().unwrap().code()
    }

    /// Runs a command of the program with this configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let config = self.config();
        Command::new(binary())
            .args(arguments)
            .args(["--config", &config])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// A fresh reply address for `thread`.
    pub(crate) fn mint(&self, thread: &str) -> String {
        let out = self.command(&["token", "mint", "--thread", thread]);
        assert!(out.status.success(), "token mint: {out:?}");
        String::from_utf8(out.stdout)
            .unwrap()
            .split_whitespace()
            .last()
            .unwrap()
            .to_owned()
    }

    /// The answer to `GET path`: status and body.
    pub(crate) fn fetch(&self, path: &str) -> (u16, String) {
        let out = Command::new("curl")
            .args([
                "-s",
                "-w",
                "\n%{http_code}",
                &format!("http://127.0.0.1:{}{path}", self.http),
            ])
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// The value of a metric without labels, or the sum over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.fetch("/metrics");
        assert_eq!(status, 200, "{text}");
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A place for the test's own files.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> String {
        self.folder
            .path()
            .join("postern.toml")
            .display()
            .to_string()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Postern {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// The program under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_postern"))
}

/// Sends a signal by name to one process.
pub(crate) fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success(), "kill -s {name} {pid}");
}

/// Waits until `done` says so, for as long as a loaded machine may need.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    // Not so many times: each may itself wait for long.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(300) {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("never happened: {what}");
}

/// A small SMTP or LMTP client that reports each answer.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects and greets; `None` if the server is not there or goes away.
    pub(crate) fn connect(port: u16, greeting: &str) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .ok()?;
        let mut client = Self {
            stream: BufReader::new(stream),
        };
        client.answer().filter(|answer| answer.starts_with("220"))?;
        client
            .say(greeting)
            .filter(|answer| answer.starts_with("250"))?;
        Some(client)
    }

    /// Sends one line and reads its answer's last line.
    pub(crate) fn say(&mut self, line: &str) -> Option<String> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.answer()
    }

    /// Hands in one mail; the answer to its final dot, or the first refusal. `None`: the server went
    /// away, so nobody knows.
    pub(crate) fn mail(&mut self, from: &str, to: &str, text: &str) -> Option<String> {
        for line in [format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{to}>")] {
            let answer = self.say(&line)?;
            if !answer.starts_with("250") {
                return Some(answer);
            }
        }
        let answer = self.say("DATA")?;
        if !answer.starts_with("354") {
            return Some(answer);
        }
        self.send(format!("{text}.\r\n").as_bytes())?;
        self.answer()
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.get_mut().write_all(bytes).ok()
    }

    /// Reads one answer, of one line or more; its last line.
    pub(crate) fn answer(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            self.stream
                .read_line(&mut line)
                .ok()
                .filter(|&read| read > 0)?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(line.trim_end().to_owned());
            }
        }
    }
}
