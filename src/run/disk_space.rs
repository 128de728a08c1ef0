//! Owns the free space of the data folder's disk: for `doctor`, and as a metric.
//!
//! Does not refuse mail; the store does.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use rustix::fs::statvfs;

/// The octets that an unprivileged user can still write to the disk of this folder.
///
/// # Errors
/// Errors of the system.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let found = statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Registers `postern_data_free_bytes`, read at each scrape.
pub(super) fn register(registry: &mut Registry, folder: PathBuf) {
    registry.register_collector(Box::new(FreeSpaceGauge { folder }));
}

#[derive(Debug)]
struct FreeSpaceGauge {
    folder: PathBuf,
}

impl Collector for FreeSpaceGauge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Ok(free) = free_bytes(&self.folder) else {
            return Ok(());
        };
        let gauge = ConstGauge::new(i64::try_from(free).unwrap_or(i64::MAX));
        let help = "Free space on the disk of the data folder";
        let kind = gauge.metric_type();
        gauge.encode(encoder.encode_descriptor("postern_data_free_bytes", help, None, kind)?)
    }
}
