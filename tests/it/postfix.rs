//! Owns a Postfix for a test: an instance in a temporary folder that sends its mail to an LMTP server on
//! loopback, or to the servers its transports name.
//!
//! Does not use the machine's own Postfix: configuration, queue and log are in the folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::ports::reserve;
use crate::wait::eventually;

/// A running Postfix. It is stopped on drop.
pub(crate) struct Postfix {
    folder: TempDir,
    port: u16,
}

impl Postfix {
    /// Starts a Postfix that accepts mail for `domain` on a free port and sends it to
    /// `lmtp:inet:127.0.0.1:LMTP_PORT`, at most 20 at a time, with a retry after a second.
    pub(crate) fn start(domain: &str, lmtp_port: u16) -> Self {
        Self::start_with(domain, lmtp_port, "")
    }

    /// The same with more lines in `main.cf`.
    pub(crate) fn start_with(domain: &str, lmtp_port: u16, extra: &str) -> Self {
        let domains = format!(
            "virtual_mailbox_domains = {domain}\nvirtual_transport = lmtp:inet:127.0.0.1:{lmtp_port}\n"
        );
        Self::start_for(&domains, extra)
    }

    /// A relay: it sends the mail of each domain by its transport, such as `smtp:[127.0.0.1]:2525`, with a
    /// retry after a second.
    pub(crate) fn start_relaying(transports: &[(&str, String)], extra: &str) -> Self {
        let (domains, map): (Vec<_>, Vec<_>) = transports
            .iter()
            .map(|(domain, transport)| (*domain, format!("{domain}={transport}")))
            .unzip();
        let domains = format!(
            "relay_domains = {}\ntransport_maps = inline:{{{}}}\n",
            domains.join(", "),
            map.join(", ")
        );
        Self::start_for(&domains, extra)
    }

    /// A Postfix with these lines in `main.cf` for its domains, and more.
    pub(crate) fn start_for(domains: &str, extra: &str) -> Self {
        let folder = TempDir::new().unwrap();
        // Postfix' own user needs access.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = reserve();
        let postfix = Self { folder, port };
        for name in ["conf", "queue", "data"] {
            fs::create_dir(postfix.path(name)).unwrap();
        }
        let owner = Command::new("chown")
            .arg("postfix")
            .arg(postfix.path("data"))
            .status();
        assert!(
            owner.unwrap().success(),
            "chown postfix: is Postfix installed, and this root?"
        );
        let at = postfix.folder.path().display();
        fs::write(
            postfix.path("conf/main.cf"),
            format!(
                "compatibility_level = 3.6\nqueue_directory = {at}/queue\ndata_directory = {at}/data\n\
                 maillog_file = {at}/maillog\nmaillog_file_prefixes = {at}\n\
                 command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\n\
                 mail_owner = postfix\nsetgid_group = postdrop\nmyhostname = relay.test\n\
                 mydestination =\nlocal_recipient_maps =\nalias_maps =\nalias_database =\n\
                 inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\n\
                 {domains}recipient_delimiter = +\nsmtputf8_enable = yes\n\
                 lmtp_destination_concurrency_limit = 20\ndefault_destination_concurrency_failed_cohort_limit = 1000\n\
                 queue_run_delay = 1s\nminimal_backoff_time = 1s\nmaximal_backoff_time = 2s\n\
                 transport_retry_time = 1s\nlmtp_connect_timeout = 5s\nlmtp_data_done_timeout = 30s\n\
                 bounce_queue_lifetime = 1h\nanvil_rate_time_unit = 1s\n{extra}"
            ),
        )
        .unwrap();
        fs::write(postfix.path("conf/master.cf"), master(port)).unwrap();
        let started = postfix.command("postfix", &["start"]);
        assert!(started.status.success(), "postfix start: {started:?}");
        postfix.wait_until_it_listens();
        postfix
    }

    /// The port on which it accepts mail.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Stops it temporarily; its queue stays.
    pub(crate) fn rest(&self) {
        let stopped = self.command("postfix", &["stop"]);
        assert!(stopped.status.success(), "postfix stop: {stopped:?}");
    }

    /// Continues after a stop.
    pub(crate) fn go_on(&self) {
        let started = self.command("postfix", &["start"]);
        assert!(started.status.success(), "postfix start: {started:?}");
        self.wait_until_it_listens();
    }

    /// The number of mails in the queue.
    pub(crate) fn queued(&self) -> usize {
        let listed = self.command("postqueue", &["-j"]);
        assert!(listed.status.success(), "postqueue: {listed:?}");
        String::from_utf8_lossy(&listed.stdout).lines().count()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("maillog")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(Path::new("/usr/sbin").join(program))
            .arg("-c")
            .arg(self.path("conf"))
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}: is Postfix installed?"))
    }

    fn wait_until_it_listens(&self) {
        let what = format!("postfix listens on {}", self.port);
        eventually(&what, || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.command("postfix", &["stop"]);
    }
}

pub(crate) use crate::ports::reserve as free_port;

fn master(port: u16) -> String {
    let daemons = [
        "pickup unix n - n 60 1 pickup",
        "cleanup unix n - n - 0 cleanup",
        "qmgr unix n - n 1 1 qmgr",
        "tlsmgr unix - - n 1000? 1 tlsmgr",
        "rewrite unix - - n - - trivial-rewrite",
        "bounce unix - - n - 0 bounce",
        "defer unix - - n - 0 bounce",
        "trace unix - - n - 0 bounce",
        "verify unix - - n - 1 verify",
        "flush unix n - n 1000? 0 flush",
        "proxymap unix - - n - - proxymap",
        "showq unix n - n - - showq",
        "error unix - - n - - error",
        "retry unix - - n - - error",
        "discard unix - - n - - discard",
        "smtp unix - - n - - smtp",
        "relay unix - - n - - smtp",
        "lmtp unix - - n - - lmtp",
        "anvil unix - - n - 1 anvil",
        "scache unix - - n - 1 scache",
        "postlog unix-dgram n - n - 1 postlogd",
    ];
    format!(
        "127.0.0.1:{port} inet n - n - - smtpd\n{}\n",
        daemons.join("\n")
    )
}
