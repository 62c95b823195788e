//! QEMUs of this machine, found and killed as processes: no daemon has to answer.

use std::fs;

use hiveward_kernel::id::{HostId, VmId};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Returns what the libvirt driver's names of a host's domains begin with.
pub(super) fn mark(host: HostId) -> String {
    let digits = format!("{:032x}", host.as_u128());
    format!("guest=hw-{}-", digits.get(20..).unwrap_or(&digits))
}

/// Tells whether a command line is that of this VM's QEMU on this host.
fn is_of(arguments: &[&str], host: HostId, vm: VmId) -> bool {
    let uuid: String = format!("{:032x}", vm.as_u128());
    let after = |option: &str| arguments.iter().position(|argument| *argument == option).and_then(|at| arguments.get(at + 1));
    let named = after("-name").is_some_and(|name| name.starts_with(&mark(host)));
    named && after("-uuid").is_some_and(|given| given.replace('-', "").eq_ignore_ascii_case(&uuid))
}

fn running(machines: &[(HostId, VmId)]) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_one = |pid: &i32| {
        // The line of a process that has ended and was not waited for is empty.
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let line = String::from_utf8_lossy(&line);
        let arguments: Vec<&str> = line.split('\0').collect();
        machines.iter().any(|(host, vm)| is_of(&arguments, *host, *vm))
    };
    pids.filter(is_one).collect()
}

/// Kills all of them; returns how many are still there.
pub(super) fn end(machines: &[(HostId, VmId)]) -> usize {
    if machines.is_empty() {
        return 0;
    }
    for pid in running(machines) {
        // One that is gone meanwhile is what is wanted; one that may not be killed is counted.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    running(machines).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_qemu_of_this_vm_on_this_host_is_meant() {
        let (host, other, vm) = (HostId::from_u128(0xabc), HostId::from_u128(0xdef), VmId::from_u128(5));
        let name = format!("{}web+1,debug-threads=on", mark(host));
        let uuid = "00000000-0000-0000-0000-000000000005";
        let line = ["/usr/bin/qemu-system-x86_64", "-name", &name, "-S", "-uuid", uuid];
        assert!(is_of(&line, host, vm));
        assert!(!is_of(&line, other, vm), "the same VM on another host of this machine");
        assert!(!is_of(&line, host, VmId::from_u128(6)));
        assert!(!is_of(&["cat", &name, uuid], host, vm));
    }
}
