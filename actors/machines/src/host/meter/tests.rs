//! Checks what metering promises, with random counters.

use super::*;

const HOST: HostId = HostId::from_u128(1);
const VM: VmId = VmId::from_u128(1);
const ALWAYS: (WallMs, WallMs) = (WallMs(i64::MIN), WallMs(i64::MAX));

fn usage(cpu_s: f64, bytes: u64) -> Usage {
    Usage {
        cpu_time_ns: Some((cpu_s * 1e9) as u64),
        memory_bytes: Some(1 << 30),
        disk_read_bytes: Some(bytes),
        disk_written_bytes: None,
        network_received_bytes: Some(2 * bytes),
        network_sent_bytes: Some(0),
    }
}

fn look(meters: &Meters, at_s: i64, of: &[(VmId, Usage)]) {
    let now = (WallMs(at_s * 1_000), u64::try_from(at_s).unwrap() * 1_000);
    meters.take(HOST, now, of.iter().map(|(vm, usage)| (*vm, usage)), (4.0, 8 << 30));
}

#[test]
fn what_is_shown_is_how_fast_the_counters_grew_and_one_that_went_backwards_is_a_gap() {
    let meters = Meters::default();
    look(&meters, 100, &[(VM, usage(10.0, 1_000))]);
    look(&meters, 105, &[(VM, usage(12.5, 6_000))]);
    // Started anew: its counters begin with nothing.
    look(&meters, 110, &[(VM, usage(1.0, 500))]);
    look(&meters, 115, &[(VM, usage(6.0, 500))]);
    // A look that was told of by an event, at once after another.
    look(&meters, 116, &[(VM, usage(6.9, 600))]);
    // Not reached for a while.
    look(&meters, 175, &[(VM, usage(30.0, 900))]);
    let samples = meters.samples(HOST, Some(VM), ALWAYS, 100).vm;
    let cpus: Vec<_> = samples.iter().map(|sample| (sample.at.0 / 1_000, sample.used.cpus)).collect();
    assert_eq!(cpus, [(100, None), (105, Some(0.5)), (110, None), (115, Some(1.0)), (175, None)]);
    let second = samples[1].used;
    assert_eq!((second.disk_read, second.network_received), (Some(1_000.0), Some(2_000.0)));
    assert_eq!((second.disk_written, second.network_sent), (None, Some(0.0)), "what was not measured is absent");
    assert!(samples.iter().all(|sample| sample.used.memory_bytes == Some(1 << 30)));
    let host = meters.now(|_| true).remove(0);
    assert_eq!(host.cpu_ns, Some(7_500_000_000), "a host's count never goes back with those of its VMs");
}

#[test]
fn what_no_hypervisor_measured_is_absent_and_where_nothing_runs_nothing_is_used() {
    let meters = Meters::default();
    look(&meters, 10, &[(VM, Usage::default())]);
    look(&meters, 15, &[(VM, Usage::default())]);
    look(&meters, 20, &[]);
    assert!(meters.samples(HOST, Some(VM), ALWAYS, 100).vm.is_empty());
    let host = meters.samples(HOST, None, ALWAYS, 100).host;
    let shown: Vec<_> = host.iter().map(|sample| (sample.vms_running, sample.vms_measured, sample.used.cpus)).collect();
    assert_eq!(shown, [(1, 0, None), (1, 0, None), (0, 0, Some(0.0))]);
    assert_eq!(host[0].reserved_cpus, 4.0);
    assert!(meters.loads(HOST, ALWAYS.0, WallMs(20_000), MINUTE).vms.is_empty());
}

#[test]
fn one_that_was_not_measured_once_keeps_what_was_measured_before_and_goes_on() {
    let meters = Meters::default();
    let other = VmId::from_u128(2);
    look(&meters, 100, &[(VM, usage(1.0, 0)), (other, usage(1.0, 0))]);
    look(&meters, 105, &[(VM, usage(2.0, 0)), (other, usage(2.0, 0))]);
    look(&meters, 110, &[(VM, Usage::default()), (other, usage(3.0, 0))]);
    look(&meters, 115, &[(VM, usage(7.0, 0)), (other, usage(4.0, 0))]);
    let cpus = |vm| -> Vec<_> {
        let samples = meters.samples(HOST, Some(vm), ALWAYS, 100).vm;
        samples.iter().map(|sample| (sample.at.0 / 1_000, sample.over_ms, sample.used.cpus)).collect()
    };
    assert_eq!(cpus(VM), [(100, 0, None), (105, 5_000, Some(0.2)), (115, 10_000, Some(0.5))]);
    assert_eq!(cpus(other).len(), 4);
    let measured = meters.samples(HOST, None, ALWAYS, 100).host;
    assert_eq!(measured[2].vms_running - measured[2].vms_measured, 1, "its host says that one is not in its sum");
}

#[test]
fn minutes_add_up_to_what_was_counted_for_looks_and_counters_by_chance() {
    for seed in 0..200 {
        let (mut dice, meters) = (fastrand::Rng::with_seed(seed), Meters::default());
        let (mut at_ms, mut counted, mut begun) = (dice.i64(0..1_000_000), 0_u64, 0);
        let mut mine: HashMap<i64, (f64, f64)> = HashMap::new();
        for n in 0..200 {
            let step = dice.i64(4_000..9_000);
            let more = dice.u64(0..50_000);
            (at_ms, counted) = (at_ms + step, counted + more);
            if n == 0 {
                begun = counted;
            } else {
                let minute = mine.entry(at_ms.div_euclid(60_000)).or_default();
                *minute = (minute.0 + more as f64, minute.1 + step as f64);
            }
            let used = Usage { disk_read_bytes: Some(counted), ..Usage::default() };
            meters.take(HOST, (WallMs(at_ms), at_ms as u64), std::iter::once((VM, &used)), (0.0, 0));
        }
        let samples = meters.samples(HOST, Some(VM), ALWAYS, usize::MAX).vm;
        assert!(samples.windows(2).all(|two| two[0].at < two[1].at), "seed {seed}: in order, and nothing twice");
        assert!(samples.len() <= VM_MINUTES_MAX + LOOKS_MAX, "seed {seed}");
        for minute in samples.iter().filter(|sample| sample.over_ms > 9_000) {
            let (bytes, ms) = mine[&minute.at.0.div_euclid(60_000)];
            let shown = f64::from(minute.used.disk_read.unwrap());
            assert!((shown - bytes * 1e3 / ms).abs() <= 1e-5 * shown.max(1.0), "seed {seed}: {minute:?}, {bytes} in {ms}");
        }
        assert_eq!(meters.now(|_| true)[0].disk_read_bytes, Some(counted - begun), "seed {seed}");
    }
}

#[test]
fn what_is_kept_of_a_vm_is_bounded_and_takes_a_few_kilobytes() {
    let meters = Meters::default();
    let vms: Vec<_> = (0..100).map(|n| VmId::from_u128(n + 1)).collect();
    for n in 0..1_000_i64 {
        let of: Vec<_> = vms.iter().map(|vm| (*vm, usage(n as f64, n as u64))).collect();
        look(&meters, 5 * n, &of);
    }
    let each = meters.bytes() / vms.len();
    println!("{each} bytes for each VM, with a share of its host's");
    assert!(each < 5_000, "{each} bytes");
    let samples = meters.samples(HOST, Some(vms[0]), ALWAYS, usize::MAX).vm;
    assert!(samples.len() >= VM_MINUTES_MAX, "{}", samples.len());
    // One that left is forgotten with all that was kept of it.
    look(&meters, 5_005, &[]);
    assert!(meters.samples(HOST, Some(vms[0]), ALWAYS, 10).vm.is_empty());
    meters.keep(|_| false);
    assert_eq!(meters.bytes(), 0);
}
