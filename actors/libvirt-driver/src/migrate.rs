//! Live migration: one call that ends when the migration has, by itself, at its limit or by an abort.
//!
//! libvirt sees to it that at most one of the two runs. What came of a call that failed only a look at both hosts says.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use virt::{
    connect::Connect,
    domain::{Domain, MigrateParameters},
    sys as raw,
};

use crate::{
    checkpoint,
    domain::{Host, Site, is_on, mark, problem},
    protocol::{AtLimit, Move, Pool, Problem, Progress},
    store, sys,
};

/// How long a guest may stand still at the end when that is what it takes.
const LONG_PAUSE_MS: u64 = 10_000;
/// libvirtd says what was measured before it answers, on another connection. Without it the figures are absent.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

fn flags(host: &Host, to: &Move, shares: bool) -> u32 {
    let mut flags = raw::VIR_MIGRATE_PERSIST_DEST | raw::VIR_MIGRATE_UNDEFINE_SOURCE | raw::VIR_MIGRATE_ABORT_ON_ERROR;
    if to.live {
        flags |= raw::VIR_MIGRATE_LIVE;
    }
    if to.peer {
        flags |= raw::VIR_MIGRATE_PEER2PEER;
    }
    if host.has_disks() && !shares {
        // What the disk has that its image has not; the image is there already.
        flags |= raw::VIR_MIGRATE_NON_SHARED_INC;
    }
    if shares {
        // libvirt knows a few shared file systems by name and takes all others for local ones.
        flags |= raw::VIR_MIGRATE_UNSAFE;
    }
    if to.at_limit == AtLimit::Converge && to.live {
        flags |= raw::VIR_MIGRATE_AUTO_CONVERGE;
    }
    flags
}

fn shared(ours: &Pool, theirs: &Pool) -> bool {
    ours.shared && theirs.shared && store::path(ours) == store::path(theirs)
}

pub fn migrate(host: &Host, vm: &str, to: &Move) -> Result<Progress, Problem> {
    let Some(domain) = host.own(vm)? else { return Err(Problem::Refused("there is no such domain".into())) };
    let (here, there) = (host.store.path(), store::path(&to.to_pool));
    let moved = |flags: u32| -> Result<Option<String>, Problem> {
        let xml = domain.xml_desc(flags).map_err(|error| problem(&error))?;
        Ok((here != there).then(|| xml.replace(&format!("<source file='{here}/"), &format!("<source file='{there}/"))))
    };
    let parameters = MigrateParameters {
        dest_name: Some(format!("{}{}", mark(&to.to_owner), to.name)),
        dest_xml: moved(raw::VIR_DOMAIN_XML_MIGRATABLE)?,
        persist_xml: moved(raw::VIR_DOMAIN_XML_MIGRATABLE | raw::VIR_DOMAIN_XML_INACTIVE)?,
        bandwidth: to.bandwidth_mib,
        ..MigrateParameters::default()
    };
    if host.has_disks() {
        // There libvirt would not know of them, and nobody could remove what they mark.
        checkpoint::give_way(&domain)?;
    }
    let flags = flags(host, to, shared(host.store.pool(), &to.to_pool));
    let (ended, ending) = mpsc::channel::<()>();
    let (site, watched) = (host.site, vm.to_owned());
    let (limit, at_limit) = (Duration::from_millis(to.limit_ms), to.at_limit);
    let watch = thread::spawn(move || watch(site, &watched, limit, at_limit, &ending));
    let departure = to.peer.then(|| sys::Departure::of(&domain)).flatten();
    let done = if to.peer {
        domain.migrate_to_uri3(Some(&to.to_uri), parameters, flags).map_err(|error| problem(&error)).map(|()| None)
    } else {
        managed(&domain, to, parameters, flags).map(Some)
    };
    drop(ended);
    let stopped = watch.join().unwrap_or(false);
    let moved = done.map_err(|problem| {
        if stopped { Problem::Failed(format!("it was not done within its limit of {} ms", to.limit_ms)) } else { problem }
    })?;
    // Hosts that move it between themselves: only the one that it left can be heard.
    let measured = match moved {
        Some((_, domain)) => sys::job(&domain, true).ok().flatten(),
        None => departure.and_then(|departure| departure.measured(TOLD_WITHIN)),
    };
    Ok(measured.unwrap_or_default())
}

/// The connection goes with the domain: it is what the domain is asked through.
fn managed(domain: &Domain, to: &Move, parameters: MigrateParameters, flags: u32) -> Result<(Connect, Domain), Problem> {
    let cannot = |error: virt::error::Error| Problem::Failed(format!("the other host cannot be reached: {}", error.message()));
    let other = Connect::open(Some(&to.to_uri)).map_err(cannot)?;
    let _ = other.set_keep_alive(5, 3);
    let moved = domain.migrate3(&other, parameters, flags).map_err(|error| problem(&error))?;
    Ok((other, moved))
}

/// Until the migration has ended: at its limit what was chosen, and the end of it when that has not helped in as long again.
/// Whether it had to be ended.
fn watch(site: &'static Site, vm: &str, limit: Duration, at_limit: AtLimit, ending: &mpsc::Receiver<()>) -> bool {
    // Not by the connection that migrates: it would be heard late there.
    let tell = |what: &dyn Fn(&Domain)| {
        if let Ok(host) = site.host()
            && let Ok(Some(domain)) = host.own(vm)
        {
            what(&domain);
        }
    };
    let over = |wait: Duration| ending.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
    if over(limit) {
        return false;
    }
    match at_limit {
        AtLimit::Abort => {}
        AtLimit::Pause => tell(&|domain| {
            let _ = domain.suspend();
        }),
        AtLimit::Converge => tell(&|domain| {
            let _ = domain.migrate_set_max_downtime(LONG_PAUSE_MS, 0);
        }),
    }
    if at_limit != AtLimit::Abort && over(limit) {
        return false;
    }
    // Until it is heeded: before the memory goes there is nothing to abort.
    loop {
        tell(&|domain| {
            let _ = sys::abort(domain);
        });
        if over(Duration::from_millis(500)) {
            return true;
        }
    }
}

pub fn job(host: &Host, vm: &str) -> Result<Option<Progress>, Problem> {
    let Some(domain) = host.own(vm)? else { return Ok(None) };
    // libvirt refuses to say it of what is off; nothing is under way of that.
    if !is_on(&domain)? {
        return Ok(None);
    }
    sys::job(&domain, false).map_err(|error| problem(&error))
}

pub fn abort(host: &Host, vm: &str) -> Result<(), Problem> {
    let Some(domain) = host.own(vm)? else { return Ok(()) };
    sys::abort(&domain).map_err(|error| problem(&error))
}
