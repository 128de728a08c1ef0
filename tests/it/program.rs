//! Owns the program as a person runs it: the real binary, in a separate folder, without inherited
//! environment. All logs and output of a run are searched for its secrets.
//!
//! Does not choose the configuration; `postern` does, for tests without one of their own.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use data_encoding::BASE64;
use tempfile::TempDir;
use toml::Value;

pub(crate) use crate::wait::eventually;

/// A signing secret.
pub(crate) const SECRET: &str = "hunter2-3f9a1c5e7b2d4068a9c1e3f5";

/// A folder to run the program in.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a temporary folder"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that only its owner can read; returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file in the temporary folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        path
    }

    /// A command with these arguments in this folder, with only these environment variables.
    pub(crate) fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        self.command_under(&[], arguments, variables)
    }

    /// The same as the last arguments of another command, `wrap`: strace, for example.
    fn command_under(
        &self,
        wrap: &[&str],
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Command {
        let binary = binary().to_str().expect("a path that is UTF-8");
        let words = [wrap, &[binary], arguments].concat();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with(arguments, &[])
    }

    pub(crate) fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let output = self.command(arguments, variables).output();
        let given = variables.iter().map(|(_, value)| (*value).to_owned());
        // Of the variables only those count that the tests mark as a secret.
        let given = given.filter(|value| value.contains("hunter2"));
        self.outcome(output.expect("the program runs"), given.collect())
    }

    /// Runs a command with this standard input.
    pub(crate) fn run_fed(&self, arguments: &[&str], input: &[u8]) -> Outcome {
        let mut child = self
            .command(arguments, &[])
            .stdin(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut stdin = child.stdin.take().expect("it was piped");
        stdin.write_all(input).expect("it reads its input");
        drop(stdin);
        let output = child.wait_with_output().expect("the program ends");
        self.outcome(output, Vec::new())
    }

    /// Runs a command to its end; returns its output unchanged.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments, &[]).output();
        let output = output.expect("the program runs");
        for said in [&output.stdout, &output.stderr] {
            self.shows_no_secret("the output", &String::from_utf8_lossy(said));
        }
        shows_no_token("the error output", &String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Fails if a visible text contains a secret of the configurations in this folder.
    #[track_caller]
    pub(crate) fn shows_no_secret(&self, what: &str, text: &str) {
        shows_no_secret(what, text, &secrets_of(self.folder.path()));
    }

    fn outcome(&self, output: Output, given: Vec<String>) -> Outcome {
        let outcome = Outcome {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("its output is UTF-8"),
            err: String::from_utf8(output.stderr).expect("its errors are UTF-8"),
        };
        let secrets = [given, secrets_of(self.folder.path())].concat();
        shows_no_secret("the output", &outcome.out, &secrets);
        shows_no_secret("the error output", &outcome.err, &secrets);
        shows_no_token("the error output", &outcome.err);
        outcome
    }

    /// Starts a server and waits until it is ready. Its log is appended to the file `log`.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Running {
        self.serve_under(&[], arguments)
    }

    /// The same as the last arguments of another command.
    pub(crate) fn serve_under(&self, wrap: &[&str], arguments: &[&str]) -> Running {
        let mut log = fs::OpenOptions::new();
        let log = log.create(true).append(true).open(self.path(LOG)).unwrap();
        let begun = log.metadata().unwrap().len();
        let out = fs::File::create(self.path("out")).unwrap();
        let mut command = self.command_under(wrap, arguments, &[]);
        let child = command.stdout(out).stderr(log).spawn();
        let mut running = Running {
            child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")),
            folder: self.folder.path().to_owned(),
            begun,
        };
        running.wait_until_ready();
        running
    }

    /// The log of all servers so far.
    pub(crate) fn log(&self) -> String {
        log_of(self.folder.path(), 0)
    }
}

/// The name of the servers' log file.
const LOG: &str = "log";

/// The log of the servers in this folder, from this octet on.
fn log_of(folder: &Path, begun: u64) -> String {
    let mut log = String::new();
    if let Ok(mut file) = fs::File::open(folder.join(LOG)) {
        file.seek(SeekFrom::Start(begun)).unwrap();
        file.read_to_string(&mut log).expect("the log is UTF-8");
    }
    shows_no_secret("the log", &log, &secrets_of(folder));
    shows_no_token("the log", &log);
    log
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Outcome {
    /// The output of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }
}

/// A running server. It is killed on drop.
pub(crate) struct Running {
    child: Child,
    folder: PathBuf,
    /// Octets of the log from before this server.
    begun: u64,
}

impl Running {
    fn wait_until_ready(&mut self) {
        eventually("postern is ready", || {
            let ready = self.log().contains(" ready version=");
            let ended = self.child.try_wait().unwrap().filter(|_| !ready);
            if let Some(status) = ended {
                panic!("postern ended with {status}: {}", self.log());
            }
            ready
        });
    }

    /// The port that it logs for `smtp`, `lmtp`, `http` or `https`, if it listens there on TCP.
    pub(crate) fn port(&self, protocol: &str) -> Option<u16> {
        let log = self.log();
        let told = format!("protocol=\"{protocol}\"");
        let lines = log.lines().filter(|line| line.contains(" listening "));
        let mut words = lines.filter(|line| line.contains(&told));
        words.find_map(|line| {
            let (_, rest) = line.split_once("address=")?;
            let address: std::net::SocketAddr = rest.split(' ').next()?.parse().ok()?;
            Some(address.port())
        })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        log_of(&self.folder, self.begun)
    }

    /// The standard output so far.
    pub(crate) fn out(&self) -> String {
        fs::read_to_string(self.folder.join("out")).unwrap()
    }

    /// Makes it reload its certificates.
    pub(crate) fn hang_up(&self) {
        signal("HUP", self.pid());
    }

    /// Stops it and waits for its end; returns its exit code and its log.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        signal("TERM", self.pid());
        let status = self.child.wait().expect("it ends");
        (status.code(), self.log())
    }

    /// Waits until it has ended by itself; returns its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            self.log();
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

/// The response to `GET target`: the status, 0 without a response in this many seconds, and the body.
pub(crate) fn fetch(port: u16, target: &str, key: Option<&str>, seconds: u32) -> (u16, String) {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--noproxy", "*", "--max-time"]);
    curl.arg(seconds.to_string());
    curl.args(["-w", "\n%{http_code}"]);
    if let Some(key) = key {
        curl.args(["-H", &format!("Authorization: Bearer {key}")]);
    }
    let out = curl
        .arg(format!("http://127.0.0.1:{port}{target}"))
        .output();
    let text = String::from_utf8(out.expect("curl runs").stdout).expect("the answer is UTF-8");
    let (body, status) = text.rsplit_once('\n').expect("curl adds the status");
    (status.parse().expect("a number"), body.to_owned())
}

/// The body of a response with status 200, or `None`.
pub(crate) fn get(port: u16, target: &str, key: Option<&str>) -> Option<String> {
    let (status, body) = fetch(port, target, key, 60);
    (status == 200).then_some(body)
}

/// The secrets in or named by the configurations in a folder, and those generated by development mode.
fn secrets_of(folder: &Path) -> Vec<String> {
    let mut secrets = vec!["hunter2".to_owned()];
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap_or_default();
        if path.extension().is_some_and(|kind| kind == "toml")
            && let Ok(table) = text.parse::<toml::Table>()
        {
            collect("", &Value::Table(table), &mut secrets);
        }
    }
    for name in ["data/messages-api-key", "data/reply-secret"] {
        if let Ok(secret) = fs::read_to_string(folder.join(name)) {
            secrets.push(secret.trim_end().to_owned());
        }
    }
    // A shorter one may be part of any word.
    secrets.retain(|secret| secret.len() >= 7);
    secrets.sort();
    secrets.dedup();
    secrets
}

/// Collects the texts below a key that is a secret in the configuration.
fn collect(key: &str, value: &Value, secrets: &mut Vec<String>) {
    match value {
        Value::Table(table) => table
            .iter()
            .for_each(|(key, value)| collect(key, value, secrets)),
        Value::Array(values) => values.iter().for_each(|value| collect(key, value, secrets)),
        Value::String(text) => match key.strip_suffix("_file") {
            Some(key) if IS_SECRET.contains(&key) => {
                let held = fs::read_to_string(text).unwrap_or_default();
                // A file of one line contains a secret; a longer one is PEM.
                secrets.extend((held.lines().count() == 1).then(|| held.trim_end().to_owned()));
            }
            None if IS_SECRET.contains(&key) => secrets.push(text.clone()),
            _ => {}
        },
        _ => {}
    }
}

/// Keys of the configuration that contain a secret, in any table.
const IS_SECRET: [&str; 9] = [
    "api_key",
    "key",
    "keys",
    "password",
    "secret",
    "secrets",
    "signing_key",
    "token",
    "tokens",
];

/// Fails if a visible text contains a secret, plain or in base64.
#[track_caller]
pub(crate) fn shows_no_secret(what: &str, text: &str, secrets: &[String]) {
    for secret in secrets {
        let shown = text.contains(secret) || text.contains(&BASE64.encode(secret.as_bytes()));
        assert!(!shown, "{what} shows the secret {secret:?}: {text}");
    }
}

/// Fails if a visible text contains a valid reply address or return path.
#[track_caller]
pub(crate) fn shows_no_token(what: &str, text: &str) {
    for prefix in ["reply+", "bounce+"] {
        for (at, _) in text.match_indices(prefix) {
            let rest = &text.as_bytes()[at + prefix.len()..];
            let letters = rest
                .iter()
                .take_while(|octet| octet.is_ascii_alphanumeric());
            assert!(letters.count() < 24, "{what} shows a token: {text}");
        }
    }
}

/// A configuration with the embedded Messages API, on these ports.
pub(crate) fn config(data: &Path, [smtp, lmtp, http]: [u16; 3]) -> String {
    format!(
        "[server]\nhostname = \"mx.example.com\"\ndata_dir = \"{}\"\n\
         [smtp]\nlisten = [\"127.0.0.1:{smtp}\"]\n\
         [lmtp]\nlisten = [\"127.0.0.1:{lmtp}\"]\n\
         [http]\nlisten = [\"127.0.0.1:{http}\"]\n\
         [auth]\nenabled = false\n\
         [embedded_api]\nenabled = true\nkey = \"{SECRET}\"\n\
         [[route]]\ndomains = [\"inbox.example.com\"]\n\
         secrets = [{{ id = 2, secret = \"{SECRET}\" }}]\n\
         [route.api]\nbase_url = \"http://127.0.0.1:{http}/api/v1/messages\"\n\
         key = \"{SECRET}\"\n",
        data.display()
    )
}
