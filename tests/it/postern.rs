//! Owns a Postern as operators run it: the real program, a configuration file, a data folder.
//!
//! Does not know the internals: tests use SMTP, LMTP, HTTP and the command line.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use crate::ports;
use crate::product::KEY;
use crate::program::{self, Home, Running};
pub(crate) use crate::program::{binary, signal};
use crate::wait::drains;
pub(crate) use crate::wait::eventually;

/// The reply domain of the tests.
pub(crate) const DOMAIN: &str = "inbox.test";
/// The secret of its route's key 0.
pub(crate) const SECRET: &str = "a secret made for tests, worth nothing elsewhere";

/// The folder, ports and configuration of a Postern, running or not.
///
/// The program chooses new ports at every start: until then they are 0 here. If a peer must know them
/// before, [`Postern::with_known_ports`] reserves fixed ones.
pub(crate) struct Postern {
    /// The program. The field stands first, so that it is dropped before its folder.
    running: Option<Running>,
    home: Home,
    /// The port of SMTP.
    pub(crate) smtp: u16,
    /// The port of LMTP.
    pub(crate) lmtp: u16,
    /// The port of HTTP.
    pub(crate) http: u16,
}

impl Postern {
    /// A Postern that posts to `base_url`, or to its own Messages API, with `extra` lines of TOML at the
    /// end, not yet started.
    pub(crate) fn new(base_url: Option<&str>, extra: &str) -> Self {
        let home = Home::new();
        // To post to itself it must know its own port.
        let http = base_url.map_or_else(ports::reserve, |_| 0);
        let own = format!("http://127.0.0.1:{http}/api/v1/messages");
        let (enabled, url) = base_url.map_or((true, own.as_str()), |url| (false, url));
        let data = home.path("data");
        // The tests' senders have no DNS records. A table can occur only once.
        let unchecked = match extra.contains("[auth]") {
            true => "",
            false => "[auth]\nenabled = false\n",
        };
        let text = format!(
            "[server]\nhostname = \"mx.test\"\ndata_dir = \"{}\"\n\
             [smtp]\nlisten = [\"127.0.0.1:0\"]\n\
             [lmtp]\nlisten = [\"127.0.0.1:0\"]\n[http]\nlisten = [\"127.0.0.1:{http}\"]\n\
             {unchecked}[embedded_api]\nenabled = {enabled}\nkey = \"{KEY}\"\n\
             [[route]]\nname = \"test\"\ndomains = [\"{DOMAIN}\"]\n\
             secrets = [{{ id = 0, secret = \"{SECRET}\" }}]\n\
             [route.api]\nbase_url = \"{url}\"\nkey = \"{KEY}\"\n{extra}",
            data.display()
        );
        home.write("postern.toml", &text);
        Self {
            running: None,
            home,
            smtp: 0,
            lmtp: 0,
            http,
        }
    }

    /// The same with fixed ports that are known before the start.
    pub(crate) fn with_known_ports(mut self) -> Self {
        let mut text = fs::read_to_string(self.config()).unwrap();
        for (protocol, port) in [
            ("smtp", &mut self.smtp),
            ("lmtp", &mut self.lmtp),
            ("http", &mut self.http),
        ] {
            if *port == 0 {
                *port = ports::reserve();
                let table = |port: u16| format!("[{protocol}]\nlisten = [\"127.0.0.1:{port}\"]\n");
                text = text.replace(&table(0), &table(*port));
            }
        }
        fs::write(self.config(), text).unwrap();
        self
    }

    /// Appends lines to the configuration.
    pub(crate) fn configure(&self, lines: &str) {
        let mut text = fs::read_to_string(self.config()).unwrap();
        text.push_str(lines);
        fs::write(self.config(), text).unwrap();
    }

    /// Starts the program and waits until it is ready.
    pub(crate) fn start(&mut self) {
        self.start_under(&[]);
    }

    /// Starts the program as the last argument of `wrap` (strace, for example), and waits until it is
    /// ready.
    pub(crate) fn start_under(&mut self, wrap: &[&str]) {
        assert!(self.running.is_none(), "it runs");
        let config = self.config();
        let running = self.home.serve_under(wrap, &["serve", "--config", &config]);
        for (protocol, port) in [
            ("smtp", &mut self.smtp),
            ("lmtp", &mut self.lmtp),
            ("http", &mut self.http),
        ] {
            // A changed configuration may have disabled the listener.
            *port = running.port(protocol).unwrap_or_default();
        }
        self.running = Some(running);
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    /// The port of HTTPS, if it is enabled.
    pub(crate) fn https(&self) -> Option<u16> {
        self.running().port("https")
    }

    /// Process id of the program.
    pub(crate) fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// Sends SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        drop(self.running.take().expect("it runs"));
    }

    /// Sends SIGTERM, and waits for the end, which must be a clean one.
    pub(crate) fn stop(&mut self) {
        self.metrics_show_no_secret();
        let (code, log) = self.running.take().expect("it runs").stop();
        assert_eq!(code, Some(0), "postern ended: {log}");
    }

    /// Waits until the program has ended by itself; returns its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.running.take().expect("it runs").wait()
    }

    /// Runs a command of the program with this configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let config = self.config();
        let arguments = [arguments, &["--config", &config]].concat();
        self.home.output(&arguments)
    }

    /// A new reply address for `thread`.
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

    /// The response to `GET path`: status and body, which must contain no secret.
    pub(crate) fn fetch(&self, path: &str) -> (u16, String) {
        let (status, body) = program::fetch(self.http, path, None, 60);
        self.home.shows_no_secret(path, &body);
        (status, body)
    }

    fn metrics_show_no_secret(&self) {
        // The server may be too busy to respond, or about to end.
        let (_, metrics) = program::fetch(self.http, "/metrics", None, 5);
        self.home.shows_no_secret("/metrics", &metrics);
        program::shows_no_token("/metrics", &metrics);
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

    /// Waits until no mail waits to be delivered.
    #[track_caller]
    pub(crate) fn drained(&self) {
        drains("all mail is delivered", || {
            self.metric("postern_ledger_waiting")
        });
    }

    /// The log so far, over all starts.
    pub(crate) fn log(&self) -> String {
        self.home.log()
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.path("data")
    }

    /// A path for the test's own files.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.home.path(name)
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> String {
        self.home.path("postern.toml").display().to_string()
    }
}

impl Drop for Postern {
    fn drop(&mut self) {
        if self.running.is_some() && !std::thread::panicking() {
            self.metrics_show_no_secret();
        }
    }
}

/// A small SMTP or LMTP client that returns each response.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects and greets; `None` if the server is not there or disconnects.
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

    /// Sends one line and returns the last line of its response.
    pub(crate) fn say(&mut self, line: &str) -> Option<String> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.answer()
    }

    /// Sends one mail; returns the response to its final dot, or the first refusal; `None` if the server
    /// disconnected, so that the result is unknown.
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

    /// Sends bytes unchanged.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.get_mut().write_all(bytes).ok()
    }

    /// Reads one response, and returns its last line.
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
