use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use tempfile::TempDir;

use super::*;

const HOST: &str = "mx.example.com";

fn signed(hosts: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for host in hosts {
        files::self_sign(folder.path(), host).unwrap();
    }
    folder
}

fn shown(certificates: &Certificates, name: Option<&str>) -> CertificateDer<'static> {
    certificates.choose(name).unwrap().cert[0].clone()
}

/// The result that a client without any trust sees, with a whole `ClientHello` that `change` may rewrite on
/// the way.
fn hello(certificates: &Arc<Certificates>, change: impl Fn(&mut Vec<u8>)) -> Result<(), String> {
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("aaaaaaaaaaaa").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    change(&mut wire);
    let mut server = ServerConnection::new(certificates.server_config().unwrap()).unwrap();
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        server.read_tls(&mut wire.by_ref()).unwrap();
        server
            .process_new_packets()
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[test]
fn the_name_a_client_asks_for_decides() {
    let folder = signed(&["a.example.com", HOST, "z.example.com"]);
    let certificates = Certificates::load(folder.path(), HOST).unwrap();
    assert_eq!(
        certificates.hosts(),
        ["a.example.com", HOST, "z.example.com"]
    );
    let ours = shown(&certificates, Some(HOST));
    assert_ne!(shown(&certificates, Some("z.example.com")), ours);
    assert_eq!(
        shown(&certificates, Some("Z.EXAMPLE.com")),
        shown(&certificates, Some("z.example.com"))
    );
    for stranger in [
        "",
        "../z.example.com",
        "z.example.com\\",
        "z.example.com\0",
        "/",
    ] {
        assert_eq!(shown(&certificates, Some(stranger)), ours, "{stranger:?}");
    }
    assert_eq!(shown(&certificates, None), ours);
}

#[test]
fn without_the_servers_own_name_the_first_is_shown() {
    let folder = signed(&["b.example.com", "c.example.com"]);
    let certificates = Certificates::load(folder.path(), HOST).unwrap();
    assert_eq!(
        shown(&certificates, None),
        shown(&certificates, Some("b.example.com"))
    );
}

#[test]
fn odd_names_in_a_client_hello_do_no_harm() {
    let folder = signed(&[HOST]);
    let certificates = Arc::new(Certificates::load(folder.path(), HOST).unwrap());
    assert_eq!(hello(&certificates, |_| {}), Ok(()));
    for name in [
        b"../../../../",
        b"aaaaaaaaaaa\0",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
        b"aaaaaaaaaaa\\",
        b"..\\..\\..\\..\\",
        b"127.00.00.01",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        // rustls decides if the handshake continues or ends with an alert; it must only not present another
        // certificate than the default, which `choose` proves, and not panic.
        let _ = hello(&certificates, |wire| {
            let at = wire
                .windows(12)
                .position(|window| window == b"aaaaaaaaaaaa")
                .unwrap();
            wire[at..at + 12].copy_from_slice(name);
        });
    }
}

#[test]
fn a_cut_or_garbled_client_hello_is_an_error() {
    let folder = signed(&[HOST]);
    let certificates = Arc::new(Certificates::load(folder.path(), HOST).unwrap());
    let garbled = hello(&certificates, |wire| {
        *wire = b"EHLO plain text\r\n".to_vec()
    });
    assert!(garbled.is_err());
}

#[test]
fn a_reload_shows_the_new_certificate() {
    let folder = signed(&[HOST, "b.example.com"]);
    let certificates = Certificates::load(folder.path(), HOST).unwrap();
    assert!(certificates.reload_if_changed().is_none());
    let old = shown(&certificates, None);
    fs::remove_dir_all(folder.path().join(HOST)).unwrap();
    files::self_sign(folder.path(), HOST).unwrap();
    fs::remove_dir_all(folder.path().join("b.example.com")).unwrap();
    assert!(certificates.reload_if_changed().unwrap().is_empty());
    assert_ne!(shown(&certificates, None), old);
    assert_eq!(certificates.hosts(), [HOST]);
    assert!(certificates.reload_if_changed().is_none());
}

#[test]
fn a_change_of_validity_is_told_once_and_after_each_reload() {
    let folder = TempDir::new().unwrap();
    let host = folder.path().join(HOST);
    fs::create_dir(&host).unwrap();
    let mut params = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    fs::write(host.join("privkey.pem"), key.serialize_pem()).unwrap();
    fs::write(host.join("fullchain.pem"), made.pem()).unwrap();
    let certificates = Certificates::load(folder.path(), HOST).unwrap();
    let last = certificates.leaves()[0].1.as_ref().unwrap().not_after;
    let day = Duration::from_secs(24 * 60 * 60);
    let told = |now| {
        let changes = certificates.validity_changes(now).into_iter();
        changes.map(|(_, _, validity)| validity).collect::<Vec<_>>()
    };
    assert_eq!(told(last.minus(30 * day)), [Validity::Good]);
    assert_eq!(told(last.minus(15 * day)), []);
    assert_eq!(told(last.minus(13 * day)), [Validity::ExpiresSoon]);
    assert_eq!(told(last.minus(12 * day)), []);
    assert_eq!(told(last.plus(day)), [Validity::Expired]);
    assert_eq!(told(last.plus(2 * day)), []);
    assert!(certificates.reload().is_empty());
    assert_eq!(told(last.plus(2 * day)), [Validity::Expired]);
}

#[test]
fn a_bad_new_certificate_keeps_the_old_one() {
    let folder = signed(&[HOST, "b.example.com"]);
    let certificates = Certificates::load(folder.path(), HOST).unwrap();
    let old = shown(&certificates, None);
    let other = fs::read(folder.path().join("b.example.com/privkey.pem")).unwrap();
    let chain = folder.path().join(HOST).join("fullchain.pem");
    let key = folder.path().join(HOST).join("privkey.pem");

    fs::write(&key, other).unwrap();
    let errors = certificates.reload_if_changed().unwrap();
    assert!(
        matches!(errors[..], [CertificateError::Pair(..)]),
        "{errors:?}"
    );
    assert!(errors[0].to_string().contains("fullchain.pem"));
    assert_eq!(shown(&certificates, None), old);

    fs::write(
        &key,
        "-----BEGIN PRIVATE KEY-----\n????\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    let errors = certificates.reload();
    assert!(
        matches!(errors[..], [CertificateError::Pem(..)]),
        "{errors:?}"
    );
    assert!(errors[0].to_string().contains("privkey.pem"));

    fs::write(&chain, "no certificate").unwrap();
    assert!(matches!(
        certificates.reload()[..],
        [CertificateError::Pem(..)]
    ));
    fs::remove_file(&chain).unwrap();
    assert!(matches!(
        certificates.reload()[..],
        [CertificateError::Io(..)]
    ));
    fs::create_dir(&chain).unwrap();
    assert!(matches!(
        certificates.reload()[..],
        [CertificateError::Io(..)]
    ));
    assert_eq!(shown(&certificates, None), old);

    fs::remove_dir_all(folder.path().join(HOST)).unwrap();
    fs::remove_dir_all(folder.path().join("b.example.com")).unwrap();
    assert!(matches!(
        certificates.reload()[..],
        [CertificateError::NoHost(_)]
    ));
    assert_eq!(shown(&certificates, None), old);
}

#[test]
fn a_file_without_end_is_not_read_whole() {
    let folder = signed(&[HOST]);
    let chain = folder.path().join(HOST).join("fullchain.pem");
    fs::write(
        &chain,
        vec![b'a'; usize::try_from(files::FILE_BYTES_MAX).unwrap() + 1],
    )
    .unwrap();
    assert!(matches!(
        Certificates::load(folder.path(), HOST),
        Err(CertificateError::TooLong(_))
    ));
}

#[test]
fn a_start_without_a_certificate_says_so() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("unsafe-test")).unwrap();
    fs::write(folder.path().join("README"), "").unwrap();
    assert!(matches!(
        Certificates::load(folder.path(), HOST),
        Err(CertificateError::NoHost(_))
    ));
    assert!(matches!(
        Certificates::load(&folder.path().join("gone"), HOST),
        Err(CertificateError::Io(..))
    ));
}

#[test]
fn the_self_signed_pair_is_kept_and_its_key_is_private() {
    let folder = TempDir::new().unwrap();
    let made = Certificates::load_or_self_sign(folder.path(), HOST).unwrap();
    let key = folder.path().join(HOST).join("privkey.pem");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = Certificates::load_or_self_sign(folder.path(), HOST).unwrap();
    assert_eq!(shown(&made, None), shown(&again, None));
    for name in ["", "..", "../x", "a/b", "a\0b"] {
        assert!(Certificates::load_or_self_sign(folder.path(), name).is_err());
    }
}

#[test]
fn debug_prints_no_key() {
    let folder = signed(&[HOST]);
    let text = format!("{:?}", Certificates::load(folder.path(), HOST).unwrap());
    assert!(text.contains(HOST));
    assert!(!text.to_lowercase().contains("key"));
}
