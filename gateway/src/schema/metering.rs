//! What VMs and hosts used, as time series.

use async_graphql::{Context, ID, Object, SimpleObject};
use hiveward_machines::host::meter::{Figures, HostSample, VmSample};

use super::{
    Result, door,
    host::host_id,
    metrics::{between, checked_points},
    op,
    scalars::{BigInt, DateTime},
    vm::vm_id,
};

/// What was used on average over a stretch of time; what was not measured is absent. A counter that began anew within it was
/// not measured.
#[derive(SimpleObject)]
pub struct UsageFigures {
    /// CPUs that were busy; 0.5 is half of one.
    cpus: Option<f32>,
    /// Resident on the host.
    memory_bytes: Option<BigInt>,
    disk_read_bytes_per_second: Option<f32>,
    disk_written_bytes_per_second: Option<f32>,
    network_received_bytes_per_second: Option<f32>,
    network_sent_bytes_per_second: Option<f32>,
}

impl From<Figures> for UsageFigures {
    fn from(used: Figures) -> Self {
        Self {
            cpus: used.cpus,
            memory_bytes: used.memory_bytes.map(BigInt),
            disk_read_bytes_per_second: used.disk_read,
            disk_written_bytes_per_second: used.disk_written,
            network_received_bytes_per_second: used.network_received,
            network_sent_bytes_per_second: used.network_sent,
        }
    }
}

/// What one VM used.
#[derive(SimpleObject)]
pub struct VmUsageSample {
    /// The end of the stretch that it is of.
    at: DateTime,
    /// 0 of a first look, which says nothing of time.
    over_ms: u32,
    used: UsageFigures,
}

impl From<VmSample> for VmUsageSample {
    fn from(sample: VmSample) -> Self {
        Self { at: sample.at.into(), over_ms: sample.over_ms, used: sample.used.into() }
    }
}

/// What all VMs of a host used together; what the host itself used is not in it.
#[derive(SimpleObject)]
pub struct HostUsageSample {
    /// The end of the stretch that it is of.
    at: DateTime,
    over_ms: u32,
    vms_running: u32,
    /// Those of them that the CPU time is of.
    vms_measured: u32,
    used: UsageFigures,
    /// What its VMs might use, by what they were made with.
    reserved_cpus: f32,
    reserved_memory_bytes: BigInt,
}

impl From<HostSample> for HostUsageSample {
    fn from(sample: HostSample) -> Self {
        Self {
            at: sample.at.into(),
            over_ms: sample.over_ms,
            vms_running: sample.vms_running,
            vms_measured: sample.vms_measured,
            used: sample.used.into(),
            reserved_cpus: sample.reserved_cpus,
            reserved_memory_bytes: BigInt(sample.reserved_memory_bytes),
        }
    }
}

#[derive(Default)]
pub struct MeteringQuery;

#[Object]
impl MeteringQuery {
    /// What a VM used on the host where it is now, in the last hour: of the last minute every five seconds, before that every
    /// minute, oldest first; where there are more than `points`, every second, third, … of them. Empty if nothing of it was
    /// measured since it came there and the node that holds its host was started.
    async fn vm_usage(
        &self,
        ctx: &Context<'_>,
        id: ID,
        since: Option<DateTime>,
        until: Option<DateTime>,
        #[graphql(default = 600)] points: i32,
    ) -> Result<Vec<VmUsageSample>> {
        let (vm, points) = (vm_id(ctx, &id)?, checked_points(points)?);
        let found = door(ctx)?.vm_samples(&op(ctx, None)?, vm, between(since, until), points).await?;
        Ok(found.into_iter().map(VmUsageSample::from).collect())
    }

    /// What all VMs of a host used together, in the last six hours; as `vmUsage`.
    async fn host_usage(
        &self,
        ctx: &Context<'_>,
        id: ID,
        since: Option<DateTime>,
        until: Option<DateTime>,
        #[graphql(default = 600)] points: i32,
    ) -> Result<Vec<HostUsageSample>> {
        let (host, points) = (host_id(ctx, "id", &id)?, checked_points(points)?);
        let found = door(ctx)?.host_samples(&op(ctx, None)?, host, between(since, until), points).await?;
        Ok(found.into_iter().map(HostUsageSample::from).collect())
    }
}
