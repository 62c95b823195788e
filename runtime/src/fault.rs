//! Named places where a test, or an operator who is allowed to, can make things go wrong.
//!
//! An unarmed place costs one relaxed load. What is armed lives in this process only.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{clock::WallMs, id::Key};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Panic,
    Error(String),
    Delay(Duration),
    /// The place never goes on, until its actor is killed.
    Hang,
    /// Ends the process at once, as `kill -9` would.
    Abort,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Armed {
    pub point: String,
    /// The key of the entity, or the path in the tree of the actor, that alone is struck; none means any.
    pub key: Option<String>,
    pub fault: Fault,
    /// The number of times that it strikes before it is spent.
    pub times: u32,
}

#[derive(Clone, Debug)]
pub struct PointStatus {
    pub armed: Armed,
    pub armed_at: WallMs,
    pub struck: u32,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("fault {point}: {message}")]
pub struct InjectedError {
    pub point: &'static str,
    pub message: String,
}

static ARMED: AtomicUsize = AtomicUsize::new(0);
static POINTS: Mutex<Vec<PointStatus>> = Mutex::new(Vec::new());
/// The largest number of points, armed and spent together; the oldest spent ones are forgotten.
const POINTS_MAX: usize = 256;

/// Arms a point; false if too many are armed already.
pub fn arm(armed: Armed) -> bool {
    let mut points = POINTS.lock();
    if points.len() >= POINTS_MAX {
        points.retain(|point| point.struck < point.armed.times);
    }
    if points.len() >= POINTS_MAX {
        return false;
    }
    points.push(PointStatus { armed, armed_at: WallMs::now(), struck: 0 });
    count(&points);
    true
}

/// Disarms every fault at this point, and forgets spent ones there. Does nothing if there is none.
pub fn disarm(point: &str) {
    let mut points = POINTS.lock();
    points.retain(|status| status.armed.point != point);
    count(&points);
}

/// Lists what is armed, and what is spent and not yet forgotten.
pub fn list() -> Vec<PointStatus> {
    POINTS.lock().clone()
}

fn count(points: &[PointStatus]) {
    ARMED.store(points.iter().filter(|point| point.struck < point.armed.times).count(), Ordering::Relaxed);
}

/// Arms what `text` says: `point[@key]=panic|hang|abort|error:TEXT|delay:MS[*TIMES];…`.
pub fn arm_from_text(text: &str) -> Result<(), String> {
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let bad = || format!("{part:?} is not point[@key]=panic|hang|abort|error:TEXT|delay:MS[*TIMES]");
        let (place, what) = part.split_once('=').ok_or_else(bad)?;
        let (point, key) = place.split_once('@').map_or((place, None), |(point, key)| (point, Some(key.to_owned())));
        let (what, times) = match what.rsplit_once('*') {
            Some((what, times)) => (what, times.parse().map_err(|_| bad())?),
            None => (what, 1),
        };
        let fault = match what.split_once(':') {
            None if what == "panic" => Fault::Panic,
            None if what == "hang" => Fault::Hang,
            None if what == "abort" => Fault::Abort,
            Some(("error", text)) => Fault::Error(text.to_owned()),
            Some(("delay", ms)) => Fault::Delay(Duration::from_millis(ms.parse().map_err(|_| bad())?)),
            _ => return Err(bad()),
        };
        if !arm(Armed { point: point.to_owned(), key, fault, times }) {
            return Err(format!("more than {POINTS_MAX} faults are armed"));
        }
    }
    Ok(())
}

#[cold]
fn strike(point: &'static str, key: Option<&str>, path: Option<&str>) -> Option<Fault> {
    let mut points = POINTS.lock();
    let status = points.iter_mut().find(|status| {
        status.struck < status.armed.times
            && status.armed.point == point
            && status.armed.key.as_deref().is_none_or(|wanted| key == Some(wanted) || path == Some(wanted))
    })?;
    status.struck += 1;
    let fault = status.armed.fault.clone();
    count(&points);
    drop(points);
    tracing::warn!(point, key, path, ?fault, "injected fault strikes");
    Some(fault)
}

/// Marks a place in asynchronous code: strikes if a fault is armed there. Costs one relaxed load while nothing is armed.
#[inline]
pub async fn point(name: &'static str, key: Option<&Key>) -> Result<(), InjectedError> {
    if ARMED.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    // Boxed: the rare case must not make every future that passes here larger.
    Box::pin(armed_point(name, key, None)).await
}

/// Marks a place that every actor has, as [`point`] does; it may be selected by the actor's path in the tree as well.
#[inline]
pub(crate) async fn actor_point(name: &'static str, key: Option<&Key>, path: &str) -> Result<(), InjectedError> {
    if ARMED.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    Box::pin(armed_point(name, key, Some(path))).await
}

#[cold]
async fn armed_point(name: &'static str, key: Option<&Key>, path: Option<&str>) -> Result<(), InjectedError> {
    match strike(name, key.map(Key::as_str), path) {
        Some(Fault::Delay(wait)) => tokio::time::sleep(wait).await,
        Some(Fault::Hang) => std::future::pending::<()>().await,
        other => return at_once(name, other),
    }
    Ok(())
}

/// Marks a place in blocking code, as [`point`] does; a hang is an hour's sleep there.
#[inline]
pub fn point_sync(name: &'static str, key: Option<&Key>) -> Result<(), InjectedError> {
    if ARMED.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    match strike(name, key.map(Key::as_str), None) {
        Some(Fault::Delay(wait)) => std::thread::sleep(wait),
        Some(Fault::Hang) => std::thread::sleep(Duration::from_secs(3600)),
        other => return at_once(name, other),
    }
    Ok(())
}

#[allow(clippy::panic)] // It is what was asked for.
fn at_once(point: &'static str, fault: Option<Fault>) -> Result<(), InjectedError> {
    match fault {
        Some(Fault::Error(message)) => Err(InjectedError { point, message }),
        Some(Fault::Panic) => panic!("fault {point}: panic"),
        Some(Fault::Abort) => std::process::abort(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_written_as_text_strikes_its_own_key_as_often_as_it_says_and_no_more() {
        arm_from_text("text.point@probe_1=error:disk: gone*2; text.other=delay:5").unwrap();
        assert!(strike("text.point", None, None).is_none());
        for _ in 0..2 {
            assert_eq!(strike("text.point", None, Some("probe_1")), Some(Fault::Error("disk: gone".into())));
        }
        assert!(strike("text.point", Some("probe_1"), None).is_none());
        assert_eq!(list().iter().find(|status| status.armed.point == "text.point").unwrap().struck, 2);
        disarm("text.point");
        disarm("text.other");
    }

    #[test]
    fn text_that_names_no_fault_is_refused() {
        for bad in ["nothing", "bad.point=", "bad.point=explode", "bad.point=delay:soon", "bad.point=panic*often"] {
            assert!(arm_from_text(bad).is_err(), "{bad}");
        }
        assert!(list().iter().all(|status| status.armed.point != "bad.point"));
    }
}
