//! Owns the certificate files: listing, reading, and the self-signed one for development.
//!
//! Does not choose between hosts.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{CertificateError, provider};

/// The number of hosts in one folder, which bounds the work of a reload.
pub(super) const HOSTS_MAX: usize = 1_000;
/// Bytes of one PEM file. A chain of ten certificates has about 20 KiB.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;

const CHAIN: &str = "fullchain.pem";
const KEY: &str = "privkey.pem";

/// The metadata of a host's two files. They change with every renewal: new files have new inodes, files
/// written in place a new time or length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostStamp {
    files: [Option<FileStamp>; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    changed_nanos: (i64, i64),
    bytes: u64,
}

/// The hosts of `folder`: its subfolders with at least one of the two files.
pub(super) fn list_hosts(folder: &Path) -> Result<BTreeMap<String, HostStamp>, CertificateError> {
    let broken = |error| CertificateError::Io(folder.to_owned(), error);
    let mut hosts = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        let files = [CHAIN, KEY].map(|file| file_stamp(&entry.path().join(file)));
        if files.iter().all(Option::is_none) {
            continue;
        }
        if hosts.len() == HOSTS_MAX {
            return Err(CertificateError::HostsTooMany(folder.to_owned()));
        }
        hosts.insert(name, HostStamp { files });
    }
    Ok(hosts)
}

/// Reads the pair of files in `folder`, and checks that the key belongs to the certificate.
pub(super) fn read_pair(folder: &Path) -> Result<CertifiedKey, CertificateError> {
    let chain_path = folder.join(CHAIN);
    let chain = read_bounded(&chain_path)?;
    let chain = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<Vec<_>, _>>()
        .and_then(|chain| match chain.is_empty() {
            true => Err(rustls::pki_types::pem::Error::NoItemsFound),
            false => Ok(chain),
        })
        .map_err(|error| CertificateError::Pem(chain_path.clone(), error))?;
    let key_path = folder.join(KEY);
    let key = PrivateKeyDer::from_pem_slice(&read_bounded(&key_path)?)
        .map_err(|error| CertificateError::Pem(key_path, error))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| CertificateError::Pair(chain_path, error))
}

/// Makes `<folder>/<host>` with a new self-signed pair, unless it exists.
pub(super) fn self_sign(folder: &Path, host: &str) -> Result<(), CertificateError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if host.is_empty() || host.starts_with('.') || !host.chars().all(fits) {
        return Err(CertificateError::HostName(host.to_owned()));
    }
    let home = folder.join(host);
    if home.exists() {
        return Ok(());
    }
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()])
        .map_err(|error| CertificateError::SelfSign(host.to_owned(), error))?;
    // The pair is made in another folder and renamed, so that a crash never leaves half of it.
    let half = folder.join(format!(".{host}.new"));
    fs::create_dir_all(&half).map_err(|error| CertificateError::Io(half.clone(), error))?;
    write_new_file(&half.join(KEY), 0o600, &made.signing_key.serialize_pem())?;
    write_new_file(&half.join(CHAIN), 0o644, &made.cert.pem())?;
    fs::rename(&half, &home).map_err(|error| CertificateError::Io(home, error))
}

fn file_stamp(path: &Path) -> Option<FileStamp> {
    let meta = fs::metadata(path).ok()?;
    Some(FileStamp {
        inode: meta.ino(),
        changed_nanos: (meta.mtime(), meta.mtime_nsec()),
        bytes: meta.len(),
    })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let broken = |error| CertificateError::Io(path.to_owned(), error);
    let file = File::open(path).map_err(broken)?;
    if !file.metadata().map_err(broken)?.is_file() {
        return Err(broken(io::ErrorKind::InvalidInput.into()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(broken)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CertificateError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}

fn write_new_file(path: &Path, mode: u32, text: &str) -> Result<(), CertificateError> {
    let broken = |error| CertificateError::Io(path.to_owned(), error);
    // A file from an interrupted start may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(broken(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(broken)?;
    file.write_all(text.as_bytes()).map_err(broken)?;
    file.sync_all().map_err(broken)
}
