//! The program as a person runs it: the real binary, a folder of its own, nothing inherited.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use tempfile::TempDir;

/// A secret that signs, and is looked for in everything that is printed.
pub(crate) const SECRET: &str = "hunter2-3f9a1c5e7b2d4068a9c1e3f5";
/// The longest wait for something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(30);

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

    /// Writes a file that only its owner can read, and gives back its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file in the temporary folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        path
    }

    /// A command with these arguments in this folder, and an environment of these variables alone.
    pub(crate) fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
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
        Outcome::of(output.expect("the program runs"))
    }

    /// Runs a command with something on its standard input.
    pub(crate) fn run_fed(&self, arguments: &[&str], input: &[u8]) -> Outcome {
        let mut child = self
            .command(arguments, &[])
            .stdin(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut stdin = child.stdin.take().expect("it was piped");
        stdin.write_all(input).expect("it reads its input");
        drop(stdin);
        Outcome::of(child.wait_with_output().expect("the program ends"))
    }

    /// Starts a server and waits until its HTTP address answers.
    pub(crate) fn serve(&self, arguments: &[&str], http: u16) -> Server {
        let child = self.command(arguments, &[]).spawn();
        let mut server = Server {
            child: child.expect("the program runs"),
        };
        let ready = || get(http, "/readyz", None).is_some();
        assert!(server.waits_until(ready), "{:?}", server.stop());
        server
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Outcome {
    fn of(output: Output) -> Self {
        let outcome = Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("its output is UTF-8"),
            err: String::from_utf8(output.stderr).expect("its errors are UTF-8"),
        };
        for said in [&outcome.out, &outcome.err] {
            assert!(!said.contains("hunter2"), "a secret is shown: {said}");
        }
        outcome
    }

    /// The output, of a command that must succeed.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }
}

/// A running server. It is killed when it is dropped.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Asks it to stop and waits for its end.
    pub(crate) fn stop(&mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(
            asked.is_ok_and(|status| status.success()),
            "kill -TERM {pid}"
        );
        let status = self.child.wait().expect("it ends");
        let mut err = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_string(&mut err).expect("its errors are UTF-8");
        }
        assert!(!err.contains("hunter2"), "a secret is logged: {err}");
        (status.code(), err)
    }

    /// Tells it to read its certificates again.
    pub(crate) fn hang_up(&self) {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-HUP", &pid]).status();
        assert!(
            asked.is_ok_and(|status| status.success()),
            "kill -HUP {pid}"
        );
    }

    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("it was piped")
    }

    fn waits_until(&mut self, happened: impl Fn() -> bool) -> bool {
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        waits_until(|| happened() || ended(&mut self.child)) && !ended(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, and that is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something happened; false if it does not for too long.
pub(crate) fn waits_until(mut happened: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if happened() {
            return true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Ports nobody listens at now.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}

/// The body of an answer with status 200, or `None`.
pub(crate) fn get(port: u16, target: &str, key: Option<&str>) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n"));
    let key = key.unwrap_or_default();
    let head = format!("GET {target} HTTP/1.1\r\nHost: postern\r\n{key}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// A configuration that serves a Messages API of its own, everything on these ports.
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
