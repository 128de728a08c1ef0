//! The certificate with which SNS signs: its name and its issuer.

use std::sync::Arc;

use postern::ingress::webhook::Ses;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::Harness;
use super::kinds::KITS;
use super::kit::{CERTIFICATE_URL, TOPIC, certificate, certificate_by};

/// A certificate authority with one below it, which signs for hosts.
struct Authority {
    root: String,
    intermediate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let params = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let (root, below) = (params("Test Root"), params("Test Intermediate"));
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let root = Issuer::new(root, root_key);
        let intermediate = below.signed_by(&key, &root).unwrap().pem();
        Self {
            root: root_pem,
            intermediate,
            issuer: Issuer::new(below, key),
        }
    }

    fn certify(&self, name: &str) -> String {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        certificate_by(&params, &self.issuer)
    }

    /// A certificate whose owner is named by the common name alone.
    fn certify_common_name(&self, name: &str) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        certificate_by(&params, &self.issuer)
    }
}

/// The status of the response to a valid notification whose certificate is served as `pem`.
async fn answer(roots: &RootCertStore, pem: &str) -> u16 {
    let ses = Ses {
        roots: Arc::new(roots.clone()),
        ..Ses::new(vec![TOPIC.to_owned()], Vec::new())
    };
    let harness = Harness::new(vec![Arc::new(ses)]);
    harness.fetch.put(CERTIFICATE_URL, pem.to_owned());
    let kit = KITS.iter().find(|kit| kit.name == "ses").unwrap();
    let heard = harness
        .send(&kit.good("general@in.example.com", harness.now))
        .await;
    assert_eq!(heard.mails(), usize::from(heard.status == 200), "{heard:?}");
    heard.status
}

#[tokio::test]
async fn only_a_certificate_in_the_name_of_sns_is_taken() {
    let (ours, other) = (Authority::new(), Authority::new());
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(ours.root.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let name = "sns.amazonaws.com";
    let chain = |leaf: &str, of: &Authority| format!("{leaf}{}", of.intermediate);
    let good = ours.certify(name);
    for (what, pem, status) in [
        ("a whole chain", chain(&good, &ours), 200),
        ("with its root", chain(&good, &ours) + &ours.root, 200),
        ("alone, as most regions serve it", good.clone(), 200),
        ("signed by itself", certificate(), 200),
        (
            "with something behind it",
            format!("{good}\n-----BEGIN X"),
            200,
        ),
        (
            "of the region",
            ours.certify("sns.us-east-1.amazonaws.com"),
            200,
        ),
        (
            "of a newer region's kind",
            ours.certify("sns-signing.us-east-1.amazonaws.com"),
            200,
        ),
        ("by common name", ours.certify_common_name(name), 200),
        ("of another host", ours.certify("s3.amazonaws.com"), 503),
        (
            "of another region",
            ours.certify("sns.eu-west-1.amazonaws.com"),
            503,
        ),
        (
            "of another host by common name",
            ours.certify_common_name("evil.example"),
            503,
        ),
        (
            "of another host, with its chain",
            chain(&ours.certify("evil.example"), &ours),
            503,
        ),
        (
            "by a stranger, with the chain",
            chain(&other.certify(name), &other) + &other.root,
            503,
        ),
        ("with a chain not its own", chain(&good, &other), 503),
    ] {
        assert_eq!(answer(&roots, &pem).await, status, "{what}");
    }
}
