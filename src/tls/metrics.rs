//! Owns the gauge of the expiry of the certificates in use.
//!
//! Does not serve it.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Certificates;

/// Registers `postern_tls_certificate_expiry_timestamp_seconds{name}`: the last second at which the
/// certificate of each host is valid, read at each scrape.
pub fn register_expiry(registry: &mut Registry, certificates: Arc<Certificates>) {
    registry.register_collector(Box::new(ExpiryGauge { certificates }));
}

#[derive(Debug)]
struct ExpiryGauge {
    certificates: Arc<Certificates>,
}

impl Collector for ExpiryGauge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauges = encoder.encode_descriptor(
            "postern_tls_certificate_expiry_timestamp_seconds",
            "Unix time at which the certificate of a host expires",
            None,
            MetricType::Gauge,
        )?;
        for (name, leaf) in self.certificates.leaves() {
            let Some(leaf) = leaf else { continue };
            let gauge = ConstGauge::new(leaf.not_after.as_secs().cast_signed());
            gauge.encode(gauges.encode_family(&[("name", name.as_str())])?)?;
        }
        Ok(())
    }
}
