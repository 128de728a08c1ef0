//! Owns DNS queries: bounded in time and number, with every answer and failure cached.
//!
//! Does not interpret the answers.

mod answer;
mod cache;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use mail_auth::hickory_resolver::net::runtime::TokioRuntimeProvider;
use mail_auth::hickory_resolver::net::{DnsError, NetError};
use mail_auth::hickory_resolver::proto::op::ResponseCode;
use mail_auth::hickory_resolver::system_conf::read_system_conf;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

pub(super) use self::answer::DnsAnswer;
use self::answer::{DnsQuery, QueryType};
use self::cache::{CachedAnswer, DnsCache};

/// Octets of a name (RFC 1035 section 3.1), without trailing dot.
pub(super) const NAME_BYTES_MAX: usize = 253;
/// Octets of a label (RFC 1035 section 3.1).
pub(super) const LABEL_BYTES_MAX: usize = 63;
/// The number of concurrent queries to one server; hickory answers "busy" above it.
const IN_FLIGHT_MAX: usize = 1_024;
/// Octets of a UDP answer: the size that passes the internet unfragmented (DNS flag day 2020).
const UDP_BYTES_MAX: u16 = 1_232;

/// The settings of DNS look-ups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsSettings {
    /// The servers to query; an empty list means the system's (`/etc/resolv.conf`).
    pub servers: Vec<SocketAddr>,
    /// The time limit of one query, in milliseconds.
    pub query_ms: u64,
    /// The time limit of all queries for one mail together, in milliseconds.
    pub mail_ms: u64,
    /// The number of queries for one mail; cached answers do not count.
    pub queries_max: usize,
    /// The number of cached answers.
    pub cache_entries_max: usize,
    /// Octets of all cached answers together.
    pub cache_bytes_max: usize,
    /// The shortest time an answer is cached, in seconds.
    pub ttl_min_secs: u64,
    /// The longest time an answer is cached, in seconds.
    pub ttl_max_secs: u64,
    /// The longest time a negative answer is cached, in seconds.
    pub negative_ttl_max_secs: u64,
    /// The time a failure is cached, in seconds.
    pub failure_ttl_secs: u64,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            query_ms: 2_000,
            mail_ms: 10_000,
            queries_max: 150,
            cache_entries_max: 20_000,
            cache_bytes_max: 32 * 1024 * 1024,
            ttl_min_secs: 30,
            ttl_max_secs: 3_600,
            negative_ttl_max_secs: 300,
            failure_ttl_secs: 15,
        }
    }
}

/// The resolver and its cache, shared by all mails.
pub(super) struct Dns {
    settings: DnsSettings,
    /// Created with the first query: a system without a resolver must not prevent the start.
    resolver: OnceCell<TokioResolver>,
    cache: Mutex<DnsCache>,
}

impl Dns {
    pub(super) fn new(settings: DnsSettings) -> Self {
        Self {
            settings,
            resolver: OnceCell::new(),
            cache: Mutex::default(),
        }
    }

    /// The query budget of one mail, from now.
    pub(super) fn budget(&self) -> QueryBudget<'_> {
        QueryBudget {
            dns: self,
            deadline: Instant::now() + Duration::from_millis(self.settings.mail_ms),
            queries_left: AtomicUsize::new(self.settings.queries_max),
        }
    }

    async fn query(&self, question: &DnsQuery) -> CachedAnswer {
        let limit = Duration::from_millis(self.settings.query_ms);
        let answer = match timeout_at(Instant::now() + limit, self.ask(question)).await {
            Ok(answer) => answer,
            Err(_) => Err(DnsFailure("no answer in time".into())),
        };
        let secs = |secs: u64, max: u64| secs.clamp(self.settings.ttl_min_secs.min(max), max);
        let ttl = match &answer {
            Ok((answer, secs_said)) if answer.is_void() => {
                secs(*secs_said, self.settings.negative_ttl_max_secs)
            }
            Ok((_, secs_said)) => secs(*secs_said, self.settings.ttl_max_secs),
            Err(_) => self.settings.failure_ttl_secs,
        };
        CachedAnswer {
            answer: answer.map(|(answer, _)| answer),
            until: Instant::now() + Duration::from_secs(ttl),
        }
    }

    /// The answer, and its time to live in seconds.
    async fn ask(&self, question: &DnsQuery) -> Result<(DnsAnswer, u64), DnsFailure> {
        let name = question.wire_name()?;
        let resolver = self
            .resolver
            .get_or_try_init(|| async { self.resolver() })
            .await?;
        match resolver
            .lookup(name, question.query_type.record_type())
            .await
        {
            Ok(lookup) => Ok(DnsAnswer::of(&lookup, question.query_type)),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let is_known = match none.response_code {
                    ResponseCode::NXDomain => false,
                    ResponseCode::NoError => true,
                    code => return Err(DnsFailure(code.to_str().into())),
                };
                let answer = DnsAnswer {
                    is_name_known: is_known,
                    records: [].into(),
                };
                Ok((answer, none.negative_ttl.unwrap_or_default().into()))
            }
            Err(error) => Err(DnsFailure(error.to_string().into())),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, DnsFailure> {
        let (config, mut options) = if self.settings.servers.is_empty() {
            let (config, options) =
                read_system_conf().map_err(|error| DnsFailure(error.to_string().into()))?;
            let servers = config.into_parts().2;
            (ResolverConfig::from_name_servers(servers), options)
        } else {
            let servers = self.settings.servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_name_servers(servers);
            (config, ResolverOpts::default())
        };
        options.timeout = Duration::from_millis(self.settings.query_ms);
        // One retry, for lost packets; the time limit of a query bounds the whole.
        options.attempts = 1;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.max_active_requests = IN_FLIGHT_MAX;
        options.edns0 = true;
        options.edns_payload_len = UDP_BYTES_MAX;
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|error| DnsFailure(error.to_string().into()))
    }

    fn cache(&self) -> MutexGuard<'_, DnsCache> {
        // No code panics while it holds the lock; if it did, the cache would still be valid.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The query budget of one mail.
pub(super) struct QueryBudget<'a> {
    dns: &'a Dns,
    deadline: Instant,
    queries_left: AtomicUsize,
}

impl QueryBudget<'_> {
    /// The texts of a name's TXT records, with their strings joined (RFC 7208 section 3.3).
    pub(super) async fn texts(&self, name: &str) -> Result<DnsAnswer, DnsFailure> {
        self.lookup(QueryType::Txt, name).await
    }

    /// The addresses of a name, in the address family of `like`.
    pub(super) async fn addresses(
        &self,
        name: &str,
        like: IpAddr,
    ) -> Result<DnsAnswer, DnsFailure> {
        let kind = if like.is_ipv4() {
            QueryType::A
        } else {
            QueryType::Aaaa
        };
        self.lookup(kind, name).await
    }

    /// The IPv4 addresses of a name.
    pub(super) async fn addresses_v4(&self, name: &str) -> Result<DnsAnswer, DnsFailure> {
        self.lookup(QueryType::A, name).await
    }

    /// The mail exchangers of a name, most preferred first.
    pub(super) async fn exchanges(&self, name: &str) -> Result<DnsAnswer, DnsFailure> {
        self.lookup(QueryType::Mx, name).await
    }

    /// The names of an address.
    pub(super) async fn names(&self, ip: IpAddr) -> Result<DnsAnswer, DnsFailure> {
        self.lookup(QueryType::Ptr, &reverse_name(ip)).await
    }

    /// Makes one query for all concurrent look-ups of the same question.
    async fn lookup(&self, kind: QueryType, name: &str) -> Result<DnsAnswer, DnsFailure> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let question = DnsQuery {
            query_type: kind,
            name,
        };
        if !question.is_name() {
            // Such a name cannot exist.
            return Ok(DnsAnswer {
                is_name_known: false,
                records: [].into(),
            });
        }
        let now = Instant::now();
        let slot = self.dns.cache().slot(&question, now, &self.dns.settings);
        if let Some(kept) = slot.get() {
            return kept.answer.clone();
        }
        let spent = DnsFailure("the budget for this mail is spent".into());
        let take_one = |left: usize| left.checked_sub(1);
        if now >= self.deadline {
            return Err(spent);
        }
        if self
            .queries_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one)
            .is_err()
        {
            return Err(spent);
        }
        let fill = slot.get_or_init(|| async {
            let kept = self.dns.query(&question).await;
            self.dns
                .cache()
                .account_bytes(&question, &kept, &self.dns.settings);
            kept
        });
        match timeout_at(self.deadline, fill).await {
            Ok(kept) => kept.answer.clone(),
            Err(_) => Err(spent),
        }
    }
}

/// The DNS gave no answer; a later query may succeed.
#[derive(Clone, Debug)]
pub(super) struct DnsFailure(Arc<str>);

impl DnsFailure {
    pub(super) fn reason(&self, name: &str) -> String {
        format!("DNS: {name}: {}", self.0)
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// The name for the reverse look-up of an address (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse_name(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles: String = ip
                .octets()
                .iter()
                .rev()
                .map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4))
                .collect();
            format!("{nibbles}ip6.arpa")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_reverse_names() {
        assert_eq!(
            reverse_name([192, 0, 2, 1].into()),
            "1.2.0.192.in-addr.arpa"
        );
        assert_eq!(
            reverse_name("2001:db8::cb01".parse().unwrap()),
            "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
    }
}
