//! The figures of what VMs use of this node's hosts, for Prometheus.
//!
//! A host has one series of each figure. A VM has its own as long as there are not too many of them: the first
//! [`VMS_MAX`] by their ids, so that a VM keeps its series, and how many are left out is a figure itself. What was not measured
//! has no series. The figures are of what is here now, so that none outlives its host or VM.

use std::fmt::Write;

use hiveward_actors::client::Metered;
use hiveward_machines::host::{driver::Usage, meter::HostNow};

/// The most VMs of one node with series of their own; each has six.
pub const VMS_MAX: usize = 500;

/// Escapes a label's value as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Family<'a, T> {
    name: &'a str,
    kind: &'a str,
    help: &'a str,
    of: fn(&T) -> Option<f64>,
}

fn write<T>(page: &mut String, families: &[Family<'_, T>], rows: &[(String, &T)]) {
    for Family { name, kind, help, of } in families {
        let mut values = rows.iter().filter_map(|(labels, row)| Some((labels, of(row)?))).peekable();
        if values.peek().is_none() {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(page, "{name}{{{labels}}} {value}");
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Prometheus' values are floats.
fn number(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn seconds(ns: Option<u64>) -> Option<f64> {
    number(ns).map(|ns| ns / 1e9)
}

const fn family<'a, T>(name: &'a str, kind: &'a str, help: &'a str, of: fn(&T) -> Option<f64>) -> Family<'a, T> {
    Family { name, kind, help, of }
}

/// Writes the figures of these hosts and their VMs in Prometheus' text format.
pub fn page(hosts: &[Metered]) -> String {
    let of_host = [
        family("hiveward_host_vms_running", "gauge", "VMs that run on the host.", |now: &HostNow| {
            Some(f64::from(now.last.vms_running))
        }),
        family("hiveward_host_reserved_cpus", "gauge", "CPUs that the host's VMs were made with.", |now| {
            Some(f64::from(now.last.reserved_cpus))
        }),
        family("hiveward_host_reserved_memory_bytes", "gauge", "Memory that the host's VMs were made with.", |now| {
            number(Some(now.last.reserved_memory_bytes))
        }),
        family("hiveward_host_vm_memory_bytes", "gauge", "Memory of the host's VMs that is resident.", |now| {
            number(now.last.used.memory_bytes)
        }),
        family("hiveward_host_vm_cpu_seconds_total", "counter", "CPU time of the host's VMs since this node looks.", |now| {
            seconds(now.cpu_ns)
        }),
        family("hiveward_host_vm_disk_read_bytes_total", "counter", "Read by the host's VMs since this node looks.", |now| {
            number(now.disk_read_bytes)
        }),
        family(
            "hiveward_host_vm_disk_written_bytes_total",
            "counter",
            "Written by the host's VMs since this node looks.",
            |now| number(now.disk_written_bytes),
        ),
        family(
            "hiveward_host_vm_network_received_bytes_total",
            "counter",
            "Received by the host's VMs since this node looks.",
            |now| number(now.network_received_bytes),
        ),
        family("hiveward_host_vm_network_sent_bytes_total", "counter", "Sent by the host's VMs since this node looks.", |now| {
            number(now.network_sent_bytes)
        }),
    ];
    let of_vm = [
        family("hiveward_vm_cpu_seconds_total", "counter", "CPU time, as the hypervisor counts it.", |usage: &Usage| {
            seconds(usage.cpu_time_ns)
        }),
        family("hiveward_vm_memory_bytes", "gauge", "Memory that is resident on the host.", |usage| number(usage.memory_bytes)),
        family("hiveward_vm_disk_read_bytes_total", "counter", "Read from disks.", |usage| number(usage.disk_read_bytes)),
        family("hiveward_vm_disk_written_bytes_total", "counter", "Written to disks.", |usage| number(usage.disk_written_bytes)),
        family("hiveward_vm_network_received_bytes_total", "counter", "Received.", |usage| number(usage.network_received_bytes)),
        family("hiveward_vm_network_sent_bytes_total", "counter", "Sent.", |usage| number(usage.network_sent_bytes)),
    ];
    let mut rows: Vec<(String, &HostNow)> =
        hosts.iter().map(|host| (format!("host=\"{}\"", escaped(&host.name)), &host.now)).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let mut page = String::new();
    write(&mut page, &of_host, &rows);
    let all = hosts.iter().flat_map(|host| host.now.vms.iter().map(move |(vm, usage)| (*vm, host, usage)));
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|(vm, ..)| *vm);
    let left_out = all.len().saturating_sub(VMS_MAX);
    let labels = |(vm, host, usage): &(hiveward_kernel::id::VmId, &Metered, &'_ Usage)| {
        let name = host.names.get(vm).map_or_else(|| vm.to_string(), Clone::clone);
        (format!("vm=\"{}\",host=\"{}\"", escaped(&name), escaped(&host.name)), **usage)
    };
    let vms: Vec<(String, Usage)> = all.iter().take(VMS_MAX).map(labels).collect();
    let vms: Vec<(String, &Usage)> = vms.iter().map(|(labels, usage)| (labels.clone(), usage)).collect();
    write(&mut page, &of_vm, &vms);
    if !hosts.is_empty() {
        let name = "hiveward_vms_without_series";
        let help = "Measured VMs of this node that have no series of their own.";
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {left_out}");
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use hiveward_kernel::id::{HostId, VmId};
    use hiveward_machines::host::meter::{Figures, HostSample};
    use hiveward_runtime::clock::WallMs;

    use super::*;

    fn host(vms: u128) -> Metered {
        let measured = Usage { cpu_time_ns: Some(2_500_000_000), memory_bytes: Some(7), ..Usage::default() };
        let last = HostSample {
            at: WallMs(1),
            over_ms: 5_000,
            vms_running: 3,
            vms_measured: 2,
            used: Figures::default(),
            reserved_cpus: 1.5,
            reserved_memory_bytes: 9,
        };
        Metered {
            name: "odd \"name\"\\".into(),
            names: HashMap::from([(VmId::from_u128(1), "web".into())]),
            now: HostNow {
                host: HostId::from_u128(1),
                last,
                cpu_ns: Some(4_000_000_000),
                disk_read_bytes: None,
                disk_written_bytes: None,
                network_received_bytes: None,
                network_sent_bytes: None,
                vms: (1..=vms).rev().map(|vm| (VmId::from_u128(vm), measured)).collect(),
            },
        }
    }

    #[test]
    fn prometheus_gets_what_was_measured_and_of_too_many_vms_a_number() {
        let page = page(&[host(VMS_MAX as u128 + 20)]);
        let line = |line: &str| assert!(page.lines().any(|other| other == line), "{line} is not in {page}");
        line(r#"hiveward_host_vms_running{host="odd \"name\"\\"} 3"#);
        line(r#"hiveward_host_vm_cpu_seconds_total{host="odd \"name\"\\"} 4"#);
        line(r#"hiveward_vm_cpu_seconds_total{vm="web",host="odd \"name\"\\"} 2.5"#);
        line("hiveward_vms_without_series 20");
        assert!(!page.contains("disk") && !page.contains("network"), "what was not measured has no series");
        assert_eq!(page.lines().filter(|line| line.starts_with("hiveward_vm_memory_bytes{")).count(), VMS_MAX);
        assert_eq!(super::page(&[]), "");
    }
}
