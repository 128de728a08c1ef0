//! Owns the fetching of data to which an authentic request refers: over HTTPS, from public addresses,
//! without redirects, bounded.
//!
//! Does not choose the hosts; the caller has checked them.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use thiserror::Error;

use crate::secret::Secret;

/// The time limit of a fetch, which is long because a mail may be long.
const FETCH_TIMEOUT: Duration = Duration::from_secs(120);
/// The time limit of a pause, and of connecting.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The key of a provider's API, and the way to send it.
#[derive(Clone, Copy, Debug)]
pub enum ApiCredential<'k> {
    /// The key in `Authorization: Bearer`.
    Bearer(&'k Secret),
    /// The key in a header field of this name.
    Header(&'static str, &'k Secret),
}

/// A client that fetches. Tests have another one.
pub trait Fetch: fmt::Debug + Send + Sync {
    /// Fetches the body at `url`, of `bytes_max` octets at most, with a `key` if one is needed.
    fn get<'f>(
        &'f self,
        url: &'f str,
        key: Option<ApiCredential<'f>>,
        bytes_max: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, FetchError>> + Send + 'f>>;
}

/// Fetches from the internet.
#[derive(Debug)]
pub struct HttpsFetcher {
    client: reqwest::Client,
}

impl HttpsFetcher {
    /// A client that follows no redirect and connects only to public addresses.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> Result<Self, FetchError> {
        let client = reqwest::Client::builder()
            .https_only(true)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(READ_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .dns_resolver(Arc::new(PublicResolver))
            .build()?;
        Ok(Self { client })
    }
}

impl Fetch for HttpsFetcher {
    fn get<'f>(
        &'f self,
        url: &'f str,
        key: Option<ApiCredential<'f>>,
        bytes_max: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, FetchError>> + Send + 'f>> {
        Box::pin(async move {
            // The resolver does not see an address in place of a name.
            if !is_host_allowed(url) {
                return Err(FetchError::Private);
            }
            let mut request = self.client.get(url);
            request = match key {
                Some(ApiCredential::Bearer(key)) => request.bearer_auth(key.reveal()),
                Some(ApiCredential::Header(name, key)) => request.header(name, key.reveal()),
                None => request,
            };
            let mut response = request.send().await?;
            // The address of the connection decides.
            let peer = response.remote_addr().map(|peer| peer.ip());
            if !peer.is_some_and(is_public) {
                return Err(FetchError::Private);
            }
            if !response.status().is_success() {
                return Err(FetchError::Status(response.status().as_u16()));
            }
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await? {
                if body.len() + chunk.len() > bytes_max {
                    return Err(FetchError::TooLong);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        })
    }
}

/// The reason why nothing was fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The host has no public address.
    #[error("not a public address")]
    Private,
    /// The connection, TLS or HTTP failed.
    #[error("request")]
    Request(#[from] reqwest::Error),
    /// The status is not 2xx.
    #[error("status {0}")]
    Status(u16),
    /// The body is too long.
    #[error("longer than allowed")]
    TooLong,
}

/// Resolves names only to public addresses, so that the checked address is also the connected one.
#[derive(Debug)]
struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|at| is_public(at.ip())).collect();
            if public.is_empty() {
                return Err(FetchError::Private.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// True if the URL's host is a name, or a public address.
fn is_host_allowed(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok();
    let host = host.as_ref().and_then(reqwest::Url::host_str);
    host.is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse().map_or(true, is_public)
    })
}

/// True for an address that may belong to any host on the internet (the registries of RFC 6890).
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || a == 0
        || a >= 224
        || (a == 100 && (b & 0xc0) == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b & 0xfe) == 18))
}

/// True for an address of 2000::/3, the only allocated range, that neither embeds an IPv4 address nor is
/// reserved.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    let is_aside = first == 0x2002 || (first == 0x2001 && (second < 0x200 || second == 0xdb8));
    (first & 0xe000) == 0x2000 && !is_aside && (first & 0xfff0) != 0x3ff0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_not_contacted() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "fec0::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "2001:db8::1",
            "2001::1",
            "ff02::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "54.239.28.85",
            "2600:1f18::1",
            "2a00:1450::1",
            "::ffff:54.239.28.85",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[tokio::test]
    async fn private_urls_are_refused_before_a_connection() {
        let web = HttpsFetcher::new().unwrap();
        let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        here.set_nonblocking(true).unwrap();
        let port = here.local_addr().unwrap().port();
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "[::ffff:127.0.0.1]",
            "[::1]",
            "localhost",
            "0",
        ] {
            let url = format!("https://{host}:{port}/latest/meta-data");
            let failed = web.get(&url, None, 10).await.unwrap_err();
            let is_own_word = matches!(failed, FetchError::Private);
            assert!(is_own_word || host == "localhost", "{host}: {failed}");
        }
        assert!(here.accept().is_err(), "somebody connected");
        for url in [
            "http://sns.us-east-1.amazonaws.com/a.pem",
            "https://localhost/a.pem",
            "file:///etc/passwd",
        ] {
            assert!(web.get(url, None, 10).await.is_err(), "{url}");
        }
    }
}
