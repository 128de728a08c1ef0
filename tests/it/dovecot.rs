//! Owns a Dovecot for a test: an instance in a temporary folder that serves one account by IMAP on
//! loopback, with mail in Maildir folders that tests write to.
//!
//! Does not use the machine's own Dovecot: configuration, mail, sockets and log are in the folder.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::ports::reserve;
use crate::program::signal;
use crate::wait::eventually;

/// The name of the user with the mailbox.
pub(crate) const USER: &str = "inbox@inbox.test";
/// Password of the user.
pub(crate) const PASSWORD: &str = "a password \"of\" tests\\";

/// A Dovecot, running or not. It is stopped on drop.
pub(crate) struct Dovecot {
    folder: TempDir,
    /// The port of IMAP, with STARTTLS.
    pub(crate) port: u16,
    /// The port of IMAP over TLS.
    pub(crate) port_tls: u16,
    child: Option<Child>,
}

impl Dovecot {
    /// Starts an instance with an empty INBOX. `extra` lines are appended to its configuration.
    pub(crate) fn start(extra: &str) -> Self {
        let folder = TempDir::new().unwrap();
        // Dovecot's own users need access.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut dovecot = Self {
            folder,
            port: reserve(),
            port_tls: reserve(),
            child: None,
        };
        dovecot.certify();
        fs::write(dovecot.path("dovecot.conf"), dovecot.config(extra)).unwrap();
        let name = format!("{USER}:{{PLAIN}}{PASSWORD}\n");
        fs::write(dovecot.path("users"), name).unwrap();
        dovecot.make("");
        dovecot.resume();
        dovecot
    }

    /// Starts it again.
    pub(crate) fn resume(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let child = Command::new("/usr/sbin/dovecot")
            .arg("-F")
            .arg("-c")
            .arg(self.path("dovecot.conf"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("dovecot: {error}: is Dovecot installed?"));
        self.child = Some(child);
        for port in [self.port, self.port_tls] {
            self.wait_for(port);
        }
    }

    fn wait_for(&mut self, port: u16) {
        eventually("dovecot listens", || {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().unwrap());
            assert!(ended.is_none(), "dovecot ended: {ended:?} {}", self.log());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    /// Stops it, with every connection.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal("TERM", child.id());
            child.wait().unwrap();
        }
    }

    /// Gives the account another password.
    pub(crate) fn set_password(&self, password: &str) {
        fs::write(self.path("users"), format!("{USER}:{{PLAIN}}{password}\n")).unwrap();
    }

    /// Makes a folder, by its Maildir name: `.Support`.
    pub(crate) fn make(&self, folder: &str) {
        let place = self.path("mail").join(folder);
        for part in ["", "cur", "new", "tmp"] {
            fs::create_dir_all(place.join(part)).unwrap();
            chown(place.join(part), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    /// Puts an unread mail into INBOX, as a delivery does.
    pub(crate) fn deliver(&self, name: &str, text: &str) {
        self.deliver_to("", name, text);
    }

    /// Like [`Dovecot::deliver`], into a folder by its Maildir name.
    pub(crate) fn deliver_to(&self, folder: &str, name: &str, text: &str) {
        let place = self.path("mail").join(folder);
        let (tmp, new) = (place.join("tmp").join(name), place.join("new").join(name));
        fs::write(&tmp, text.replace('\n', "\r\n")).unwrap();
        chown(&tmp, Some(NOBODY), Some(NOBODY)).unwrap();
        fs::rename(tmp, new).unwrap();
    }

    /// The Maildir names in a folder (`""` is INBOX), in both of its states.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let mut names = Vec::new();
        for state in ["cur", "new"] {
            let place = self.path("mail").join(folder).join(state);
            for entry in fs::read_dir(place).into_iter().flatten() {
                names.push(entry.unwrap().file_name().into_string().unwrap());
            }
        }
        names.sort();
        names
    }

    /// True if the mail of this name has been read; `None` if it is not in INBOX.
    pub(crate) fn is_seen(&self, name: &str) -> Option<bool> {
        let names = self.names("");
        let found = names
            .iter()
            .find(|found| found.split(':').next() == Some(name));
        found.map(|found| {
            found
                .rsplit_once(":2,")
                .is_some_and(|(_, flags)| flags.contains('S'))
        })
    }

    /// Moves a file within INBOX's Maildir, as a mail program does to mark it as read.
    pub(crate) fn rename(&self, from: &str, to: &str) {
        let mail = self.path("mail");
        fs::rename(mail.join(from), mail.join(to)).unwrap();
    }

    /// Like [`Dovecot::rename`], for a mail that arrived years ago.
    pub(crate) fn age(&self, from: &str, to: &str) {
        let file = fs::File::open(self.path("mail").join(from)).unwrap();
        let then = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        file.set_modified(then).unwrap();
        self.rename(from, to);
    }

    /// Forgets all UIDs, so that the folder gets another UIDVALIDITY. Dovecot must be stopped.
    pub(crate) fn renumber(&self) {
        assert!(self.child.is_none(), "it runs");
        for entry in fs::read_dir(self.path("mail")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("dovecot") {
                fs::remove_file(&path).unwrap();
            }
        }
    }

    /// The CA certificate for it.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The socket at which mail servers check passwords.
    pub(crate) fn sasl(&self) -> PathBuf {
        self.path("run/sasl")
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A CA, and a certificate of it for `localhost`.
    fn certify(&self) {
        let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
            -keyout ca.key -out ca.pem -subj /CN=test-ca -days 2 \
            -addext basicConstraints=critical,CA:TRUE && \
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
            -keyout key.pem -out csr.pem -subj /CN=localhost && \
            printf 'subjectAltName=DNS:localhost\\nbasicConstraints=CA:FALSE\\n' > ext && \
            openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile ext -out cert.pem";
        let made = Command::new("sh")
            .args(["-c", script])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "openssl: {made:?}");
    }

    fn config(&self, extra: &str) -> String {
        let at = self.folder.path().display();
        let (port, port_tls) = (self.port, self.port_tls);
        format!(
            "base_dir = {at}/run\nlog_path = {at}/log\nprotocols = imap\nlisten = 127.0.0.1\n\
             ssl = yes\nssl_cert = <{at}/cert.pem\nssl_key = <{at}/key.pem\n\
             disable_plaintext_auth = no\nauth_failure_delay = 0\nauth_mechanisms = plain login\n\
             mail_location = maildir:{at}/mail\nmail_uid = {NOBODY}\nmail_gid = {NOBODY}\n\
             first_valid_uid = 1\nfirst_valid_gid = 1\nmailbox_idle_check_interval = 1s\n\
             maildir_very_dirty_syncs = no\nmail_max_userip_connections = 100\n\
             passdb {{\n driver = passwd-file\n args = {at}/users\n}}\n\
             userdb {{\n driver = static\n args = uid={NOBODY} gid={NOBODY} home={at}/mail\n}}\n\
             namespace inbox {{\n inbox = yes\n}}\n\
             service imap-login {{\n inet_listener imap {{\n port = {port}\n }}\n\
             inet_listener imaps {{\n port = {port_tls}\n ssl = yes\n }}\n}}\n\
             service auth {{\n unix_listener sasl {{\n mode = 0666\n }}\n}}\n\
             service anvil {{\n unix_listener anvil-auth-penalty {{\n mode = 0\n }}\n}}\n{extra}"
        )
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        self.stop();
    }
}

/// User and group that own the mail: nobody.
const NOBODY: u32 = 65_534;
